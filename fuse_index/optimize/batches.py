"""Which prompts go through a model together, so that little is computed twice or for nothing.

On a CPU a pass over many rows takes about as long as its positions do, and a little more that is
the same for every pass. Rows of one length waste nothing on padding, and a causal model runs what
all rows of a batch begin with only once. So it may pay to run fewer rows at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from fuse_index.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from fuse_index.models.base import Model
    from fuse_index.objectives.base import Loss
    from fuse_index.words.ragged import Ragged

_LAYER_WORK = 2e7
"""Multiplications that a core does in the time a layer takes beside its products: from models of
110 to 442 thousand weights a layer, whose passes took as long as 40 to 180 positions more."""


@dataclass(frozen=True)
class Plan:
    """The batches of one loss.

    Attributes:
        order: ``(n,)``, the rows one after another.
        parts: slices of ``order``, each a batch.
    """

    order: NDArray[np.int64]
    parts: tuple[slice, ...]


def plan_batches(loss: Loss, contents: Ragged, most: int) -> Plan:
    """Decide which prompts run together.

    The plan depends on nothing but the prompts and the model, so that a run that is repeated or
    resumed computes the same.

    Args:
        loss: whose batches they are.
        contents: ``n`` prompts in the tokens of its model, those that begin alike side by side.
        most: prompts of one batch at most.
    """
    count, fixed = len(contents), pass_positions(loss.model)
    order = np.arange(count)
    if fixed is None or count < 2:
        return Plan(order, (slice(0, count),) if count else ())
    together = np.zeros(count, np.int64)
    if loss.shares_starts:
        together[1:] = _common_starts(contents)
    else:
        order = np.argsort(contents.lengths, kind="stable")
    bounds = _cheapest(contents.lengths[order], together, most, fixed)
    return Plan(order, tuple(slice(a, b) for a, b in pairwise(bounds)))


def pass_positions(model: Model) -> float | None:
    """Return how many positions take as long as what every pass of a model takes beside them.

    Args:
        model: which one.

    Returns:
        A number of positions; None where that is not known, on a GPU or without layers.
    """
    if model.device.type != "cpu":
        return None
    try:
        layers = model.layers
    except ModelError:
        return None
    return _LAYER_WORK * len(layers) / max(sum(map(_weights, layers)), 1)


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _common_starts(contents: Ragged) -> NDArray[np.int64]:
    """``(n - 1,)``: with how many ids each row begins as the one before it does."""
    padded = contents.padded(int(contents.lengths.max(initial=0)))
    same = padded[1:] == padded[:-1]
    inside = np.minimum(contents.lengths[1:], contents.lengths[:-1])
    same &= np.arange(padded.shape[1]) < inside[:, None]
    found: NDArray[np.int64] = np.logical_and.accumulate(same, axis=1).sum(axis=1)
    return found


def _cheapest(
    lengths: NDArray[np.int64], together: NDArray[np.int64], most: int, fixed: float
) -> list[int]:
    """Cut rows into the batches that take the least.

    Args:
        lengths: ``(n,)``.
        together: ``(n,)``, with how much each row begins as the one before it; all but the last
            position that a batch shares is run once.
        most: rows of a batch at most.
        fixed: positions that a batch costs beside those it runs.

    Returns:
        Where batches begin and end.
    """
    count = len(lengths)
    cost = np.zeros(count + 1)
    begin = np.zeros(count + 1, np.int64)
    for end in range(1, count + 1):
        first = max(end - most, 0)
        longest = np.maximum.accumulate(lengths[first:end][::-1])[::-1]
        shared = np.zeros(end - first, np.int64)  # a row alone is run as it is
        own = np.minimum.accumulate(together[first + 1 : end][::-1])[::-1]
        shared[:-1] = np.maximum(own - 1, 0)
        rows = np.arange(end - first, 0, -1)
        whole = cost[first:end] + fixed + rows * (longest - shared)
        best = int(whole.argmin())
        cost[end], begin[end] = whole[best], first + best
    bounds = [count]
    while bounds[-1]:
        bounds.append(int(begin[bounds[-1]]))
    return bounds[::-1]
