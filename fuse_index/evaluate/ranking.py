"""Agreement between predicted and true orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fuse_index.errors import ShapeError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over samples and its standard error.

    Attributes:
        mean: mean of the samples that have a value.
        stderr: standard deviation (n - 1) over the square root of their number; 0 for one sample.
    """

    mean: float
    stderr: float

    @classmethod
    def of(cls, samples: Sequence[float] | Floats) -> Estimate:
        """Estimate from samples; NaN (no value) is left out, and nothing left gives NaN."""
        values = np.asarray(samples, np.float64)
        values = values[~np.isnan(values)]
        if not len(values):
            return cls(float("nan"), float("nan"))
        stderr = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        return cls(float(values.mean()), stderr)


def ranks(values: Floats) -> Floats:
    """Rank values from 1; ties share the mean of their ranks.

    Args:
        values: ``(n,)``.

    Returns:
        ``(n,)`` float64.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank: Floats = last - (counts - 1) / 2.0
    return mean_rank[inverse.reshape(-1)]


def spearman(first: Floats, second: Floats) -> float:
    """Spearman's rank correlation; NaN where one of the two is constant.

    Args:
        first: ``(n,)``.
        second: ``(n,)``.

    Raises:
        ShapeError: the two are not vectors of one length.
    """
    first, second = _pair(first, second)
    a, b = ranks(first) - (len(first) + 1) / 2, ranks(second) - (len(second) + 1) / 2
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else float("nan")


def share_found(predicted: Floats, truth: Floats, best: int, among: int) -> float:
    """Share of the ``best`` lowest true values found among the ``among`` lowest predicted.

    Ties are broken by position, on both sides alike.

    Args:
        predicted: ``(n,)``, lower is better.
        truth: ``(n,)``, lower is better.
        best: how many true ones.
        among: how many predicted ones.
    """
    predicted, truth = _pair(predicted, truth)
    best = min(best, len(truth))
    wanted = np.argsort(truth, kind="stable")[:best]
    found = np.argsort(predicted, kind="stable")[:among]
    return len(np.intersect1d(wanted, found)) / best if best else float("nan")


def _pair(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ShapeError(
            f"rankings of shapes {first.shape} and {second.shape}",
            expected="two vectors of one length",
        )
    return first, second
