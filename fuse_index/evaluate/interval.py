"""Scores of a corpus with what they were computed from, and seeded bootstrap intervals of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fuse_index.common.options import Seed, Width, options
from fuse_index.errors import OptionError, ShapeError

Floats = NDArray[np.float64]
Combine = Callable[[Floats], Floats]
"""(r, k) totals of the items' parts -> (r,) values of the corpus."""

_CHUNK = 1 << 22
"""Counts held at once: 32 MiB."""


@options()
class BootstrapOptions:
    """How intervals are taken.

    Attributes:
        resamples: how often the corpus is drawn again.
        level: share of the resamples inside the interval.
        seed: decides the resamples, together with the number of items.
    """

    resamples: Width = 2000
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    seed: Seed = 0


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: its lower end.
        high: its upper end.
    """

    low: float
    high: float


def ratio(totals: Floats) -> Floats:
    """First column over the second: (r, 2) -> (r,); NaN where the second is 0."""
    defined = totals[:, 1] != 0
    values: Floats = np.full(len(totals), np.nan)
    values[defined] = totals[defined, 0] / totals[defined, 1]
    return values


@dataclass(frozen=True, eq=False)
class Score:
    """One figure of a corpus, and that figure of each item by itself.

    A corpus value is not always the mean of its items' (BLEU adds up matches first), so the items'
    parts are kept and every resample is computed as the corpus itself is.

    Attributes:
        name: of the metric.
        value: of the corpus.
        items: (n,) of every item by itself; NaN where an item has none.
        parts: (n, k) what adds up to the corpus value, or None where only the metric's own program
            can tell (METEOR); there is no interval then.
        combine: from totals of the parts to corpus values.
    """

    name: str
    value: float
    items: Floats = field(repr=False)
    parts: Floats | None = field(repr=False)
    combine: Combine = field(default=ratio, repr=False)

    def interval(self, options: BootstrapOptions | None = None) -> Interval | None:
        """Percentile bootstrap interval over items (Efron 1979); None where parts are."""
        options = options or BootstrapOptions()
        if self.parts is None:
            return None
        return _percentiles(_resampled([self], options)[0], options.level)


def mean_score(name: str, items: Sequence[float] | Floats) -> Score:
    """Make the mean of the items a score; items that are NaN are left out.

    Args:
        name: of the metric.
        items: (n,) values.

    Raises:
        ShapeError: it is not a vector with at least one item.
    """
    values = np.asarray(items, np.float64)
    if values.ndim != 1 or not len(values):
        raise ShapeError(
            f"{name}: items of shape {values.shape}", expected="a vector of at least one item"
        )
    defined = ~np.isnan(values)
    parts = np.stack([np.where(defined, values, 0.0), defined.astype(np.float64)], axis=1)
    return Score(name, float(ratio(parts.sum(axis=0, keepdims=True))[0]), values, parts)


@dataclass(frozen=True)
class PairedDifference:
    """How far one system is above another on the same items.

    Attributes:
        value: first minus second.
        interval: of the difference.
        p_value: two-sided: twice the smaller share of resamples in which the difference is not
            above 0, or not below it; the observed corpus counts as one resample, so it is never 0.
    """

    value: float
    interval: Interval
    p_value: float


def paired_bootstrap(
    first: Score, second: Score, options: BootstrapOptions | None = None
) -> PairedDifference:
    """Compare two systems' scores of one metric, each resample being the same items for both.

    It is paired bootstrap resampling (Koehn 2004) with a two-sided p-value.

    Args:
        first: a system's score.
        second: another system's, on the same items in the same order.
        options: see :class:`BootstrapOptions`.

    Raises:
        OptionError: they are scores of different metrics, or of one that cannot be resampled.
        ShapeError: they are of different numbers of items.
    """
    options = options or BootstrapOptions()
    if first.name != second.name:
        raise OptionError(f"scores {first.name} and {second.name}", expected="one metric")
    if first.parts is None or second.parts is None:
        raise OptionError(
            f"{first.name} cannot be resampled",
            expected="a score with parts",
            remedy="compare the means of the items: mean_score(name, score.items)",
        )
    if len(first.parts) != len(second.parts):
        raise ShapeError(
            f"{first.name} of {len(first.parts)} and of {len(second.parts)} items",
            expected="the same items",
        )
    one, two = _resampled([first, second], options)
    differences = one - two
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (1 + tail) / (1 + options.resamples))
    interval = _percentiles(differences, options.level)
    return PairedDifference(first.value - second.value, interval, p_value)


def _resampled(scores: Sequence[Score], options: BootstrapOptions) -> list[Floats]:
    """``(resamples,)`` corpus values of every score, all on the same draws."""
    parts = [score.parts for score in scores if score.parts is not None]
    n = len(parts[0])
    rng = np.random.default_rng(options.seed)
    values: list[list[Floats]] = [[] for _ in scores]
    rows = max(1, _CHUNK // n)
    for start in range(0, options.resamples, rows):
        counts = np.stack(
            [
                np.bincount(rng.integers(n, size=n), minlength=n)
                for _ in range(min(rows, options.resamples - start))
            ]
        ).astype(np.float64)
        for found, score, part in zip(values, scores, parts, strict=True):
            # not by BLAS, whose sums depend on how many resamples are taken at once
            found.append(score.combine(np.einsum("rn,nk->rk", counts, part)))
    return [np.concatenate(found) for found in values]


def _percentiles(values: Floats, level: float) -> Interval:
    """Ends of the middle ``level``; resamples without a value are left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
