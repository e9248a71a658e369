"""How well the adapters map words that they were not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fuse_index.adapter.groups import FALLBACK, WordGroup
from fuse_index.adapter.stream import WordStream


@dataclass(frozen=True)
class GroupQuality:
    """Quality of the adapter of one group on the group's held-out words.

    Attributes:
        words: words of the group that were fitted on.
        held_out: words it was measured on; the figures are ``None`` where there are none.
        relative_error: ``||X * G - Y|| / ||Y||`` over the target tokens of the held-out words.
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
        groups: by name of the group, whether it has an adapter of its own or uses the fallback;
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


def report(
    stream: WordStream,
    groups: Sequence[WordGroup],
    adapters: dict[str, Tensor],
    tick: Callable[[int], None],
) -> QualityReport:
    """Measure every adapter on the held-out words of its group, and the fallback on all of them.

    Args:
        stream: of the words.
        groups: the groups.
        adapters: float32 by group, with ``"fallback"`` for the groups that have none.
        tick: called with the number of words of each chunk.
    """
    fallback = adapters[FALLBACK]
    results, total, common = {}, _Meter(), _Meter()
    means = _means(stream, groups)
    for group in groups:
        own, baseline = _Meter(), _Meter()
        faces = adapters.get(group.name, fallback)
        for source, target in stream.read(group.held_out, torch.float32):
            predicted = predict(faces, source, len(target))
            own.add(predicted, target)
            baseline.add(means[group.name].to(target)[:, None].expand_as(target), target)
            if faces is not fallback:
                predicted = predict(fallback, source, len(target))
            total.add(predicted, target)
            common.add(means[FALLBACK].to(target)[:, None].expand_as(target), target)
            tick(source.shape[1])
        counts = len(group.train), len(group.held_out)
        results[group.name] = GroupQuality(*counts, *own.result(), *baseline.result())
    counts = sum(len(g.train) for g in groups), sum(len(g.held_out) for g in groups)
    results[FALLBACK] = GroupQuality(*counts, *total.result(), *common.result())
    return QualityReport(results)


def _means(stream: WordStream, groups: Sequence[WordGroup]) -> dict[str, Tensor]:
    """Return the mean target tokens of every group, ``(q, width)``, and of all, ``(1, width)``."""
    if not any(len(group.held_out) for group in groups):
        return {}
    means = {g.name: stream.target_mean(g.train) for g in groups if len(g.train)}
    tokens = sum(g.q * len(g.train) for g in groups)
    sums = [means[g.name].sum(0) * (len(g.train) / tokens) for g in groups if g.name in means]
    common = torch.stack(sums).sum(0, keepdim=True)
    return {FALLBACK: common, **{g.name: means.get(g.name, common) for g in groups}}


class _Meter:
    """Accumulates squared errors and cosines in float64."""

    def __init__(self) -> None:
        self._error = self._energy = self._cosine = 0.0
        self._tokens = 0

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        predicted, truth = predicted.double(), truth.double()
        self._error += float((predicted - truth).square().sum())
        self._energy += float(truth.square().sum())
        self._cosine += float(torch.cosine_similarity(predicted, truth, dim=-1).sum())
        self._tokens += truth.shape[0] * truth.shape[1]

    def result(self) -> tuple[float | None, float | None]:
        if not self._energy > 0:
            return None, None
        return float((self._error / self._energy) ** 0.5), self._cosine / self._tokens
