"""Quality of adapters on held-out words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from fuse_index.adapter.fit.groups import FALLBACK, WordGroup
from fuse_index.adapter.fit.rows import WordRows
from fuse_index.adapter.fit.stream import WordStream
from fuse_index.adapter.maps import GroupMap
from fuse_index.common.progress import Add


@dataclass(frozen=True)
class GroupQuality:
    """Quality of the adapter of one group on the group's held-out words.

    Attributes:
        words: words of the group that were fitted on.
        held_out: words it was measured on; the figures are ``None`` where there are none.
        relative_error: ``||f(X) - Y|| / ||Y||`` over the target tokens of the held-out words.
        cosine: mean over those tokens of the cosine between predicted and true embedding.
        baseline_error: relative error of predicting the mean of the group's words, token by token.
        baseline_cosine: cosine of predicting that mean.
    """

    words: int
    held_out: int
    relative_error: float | None
    cosine: float | None
    baseline_error: float | None
    baseline_cosine: float | None


@dataclass(frozen=True)
class QualityReport:
    """Quality by group.

    Attributes:
        groups: by name of the group, whether it has an adapter or uses the fallback;
            ``"fallback"`` is the fallback adapter measured on the held-out words of all groups,
            against the mean of all target tokens.
    """

    groups: dict[str, GroupQuality]

    def to_dict(self) -> dict[str, dict[str, float | int | None]]:
        """Return plain numbers by group, ready for JSON."""
        return {name: asdict(quality) for name, quality in self.groups.items()}


def predict(faces: Tensor, source: Tensor, count: int) -> Tensor:
    """Return the first target tokens of ``X * G``.

    Args:
        faces: adapter ``(k, source width, target width)``.
        source: ``(p, m, source width)`` of the same dtype; ``p`` may exceed ``k``.
        count: target tokens to predict; may exceed ``k``.

    Returns:
        ``(count, m, target width)`` with ``out[t] = sum_s source[s] @ faces[(t - s) mod k]``.
    """
    k = len(faces)
    result = source.new_zeros(count, source.shape[1], faces.shape[2])
    for shift in range(k):
        # tokens that meet face ``shift``; summed first where several do (p > k)
        for t in range(count):
            chosen = [s for s in range(len(source)) if (t - s) % k == shift]
            if chosen:
                result[t].addmm_(source[chosen].sum(0), faces[shift])
    return result


Predict = Callable[[Tensor, int], Tensor]
"""Source tokens ``(p, m, source width)`` and a count of target tokens, to ``(count, m, width)``."""


def by_product(faces: Tensor, intercept: Tensor | None = None) -> Predict:
    """Return the prediction of a t-product, with or without an intercept ``(q or 1, width)``."""

    def run(source: Tensor, count: int) -> Tensor:
        out = predict(faces, source, count)
        return out if intercept is None else out + intercept[:, None]

    return run


def by_map(own: GroupMap) -> Predict:
    """Return the prediction of a map of another kind."""

    def run(source: Tensor, count: int) -> Tensor:
        words = source.transpose(0, 1).flatten(1)
        missing = own.source_entries - words.shape[1]
        out = own.apply(torch.nn.functional.pad(words, (0, missing)))
        return out.view(len(words), count, -1).transpose(0, 1)

    return run


@dataclass(frozen=True)
class Measured:
    """What the held-out words say.

    Attributes:
        report: the figures.
        shrinkage: groups that predict worse than their mean, with the factor in [0, 1] on the
            deviation from the mean that has the least error on the held-out words.
    """

    report: QualityReport
    shrinkage: dict[str, float]


def measure(
    stream: WordStream,
    groups: Sequence[WordGroup],
    predictions: Mapping[str, Predict],
    add: Add,
    means: dict[str, Tensor] | None = None,
) -> Measured:
    """Measure every map on the held-out words of its group, and the fallback on all of them.

    Args:
        stream: of the words.
        groups: the groups.
        predictions: in float32 by group, with ``"fallback"`` for the groups that have none.
        add: called with the number of words of each chunk.
        means: of the groups and of all, if known.
    """
    fallback = predictions[FALLBACK]
    means = target_means(stream, groups) if means is None else means
    results: dict[str, GroupQuality] = {}
    everything: list[Tensor] = []
    shrinkage: dict[str, float] = {}
    for group in groups:
        parts = stream.parts(group.held_out)
        task = partial(_measure, stream, predictions=(predictions.get(group.name), fallback))
        if parts:
            task = partial(task, means=(means[group.name], means[FALLBACK]))
        pending = [stream.workers.submit(task, part) for part in parts]
        errors = []
        for part, future in zip(parts, pending, strict=True):
            errors.append(future.result())
            add(len(part))
        everything += errors
        counts = len(group.train), len(group.held_out)
        results[group.name] = GroupQuality(*counts, *_summary(errors)[:4])
        if group.name in predictions:
            shrinkage |= _shrinkage(group.name, errors, 0)
    counts = sum(len(g.train) for g in groups), sum(len(g.held_out) for g in groups)
    results[FALLBACK] = GroupQuality(*counts, *_summary(everything)[4:])
    shrinkage |= _shrinkage(FALLBACK, everything, 2)
    return Measured(QualityReport(results), shrinkage)


def target_means(stream: WordStream, groups: Sequence[WordGroup]) -> dict[str, Tensor]:
    """Return the mean target tokens of every group, ``(q, width)``, and of all, ``(1, width)``."""
    if not any(len(group.held_out) for group in groups):
        return {}
    means = {g.name: stream.target_mean(g.train) for g in groups if len(g.train)}
    return with_common(means, groups)


def with_common(means: dict[str, Tensor], groups: Sequence[WordGroup]) -> dict[str, Tensor]:
    """Add the mean of all target tokens, under "fallback" and for groups that have none."""
    tokens = sum(g.q * len(g.train) for g in groups)
    sums = [means[g.name].sum(0) * (len(g.train) / tokens) for g in groups if g.name in means]
    common = torch.stack(sums).sum(0, keepdim=True)
    return {FALLBACK: common, **{g.name: means.get(g.name, common) for g in groups}}


def _measure(
    stream: WordStream,
    rows: WordRows,
    *,
    predictions: tuple[Predict | None, Predict],
    means: tuple[Tensor, Tensor],
) -> Tensor:
    """Measure one chunk of held-out words.

    Args:
        stream: of the words.
        rows: the chunk.
        predictions: of the group, ``None`` if it has none, and of the fallback.
        means: the mean targets of the group, ``(q, width)``, and of all, ``(1, width)``.

    Returns:
        ``(7, 2)`` float64, sums over tokens: squared error and cosine of the group's map, its
        mean, the fallback and the common mean; the squared norm and number of the tokens; for the
        group's map and for the fallback the product of the predicted and true deviation from the
        mean, and the squared norm of the predicted one.
    """
    source, target = stream.embed(rows, torch.float32)
    truth = target.double()
    by_fallback = predictions[1](source, len(target)).double()
    own = by_fallback if predictions[0] is None else predictions[0](source, len(target)).double()
    mean, common = means[0][:, None], means[1][:, None]
    sums = [
        (
            (guess - truth).square().sum(),
            torch.cosine_similarity(guess.expand_as(truth), truth, dim=-1).sum(),
        )
        for guess in (own, mean, by_fallback, common)
    ]
    sums.append((truth.square().sum(), truth.new_tensor(truth.shape[0] * truth.shape[1])))
    for guess, centre in ((own, mean), (by_fallback, common)):
        away = guess - centre
        sums.append(((away * (truth - centre)).sum(), away.square().sum()))
    return torch.stack([torch.stack(pair) for pair in sums]).cpu()


def _summary(parts: Sequence[Tensor]) -> list[float | None]:
    """Return relative error and mean cosine of the four predictions of :func:`_measure`."""
    if not parts:
        return [None] * 8
    sums = torch.stack(list(parts)).sum(0)
    energy, tokens = sums[4].tolist()
    figures: list[float | None] = []
    for error, cosine in sums[:4].tolist():
        figures += [(error / energy) ** 0.5 if energy > 0 else None, cosine / tokens]
    return figures


def _shrinkage(name: str, parts: Sequence[Tensor], first: int) -> dict[str, float]:
    """Return by how much a map has to be shrunk, nothing if it is no worse than the mean."""
    if not parts:
        return {}
    sums = torch.stack(list(parts)).sum(0)
    if sums[first, 0] <= sums[first + 1, 0]:
        return {}
    along, size = sums[5 + first // 2].tolist()
    return {name: max(0.0, min(1.0, along / size if size > 0 else 0.0))}
