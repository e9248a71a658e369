"""One loss out of several: weighted sums, and weights from the sizes of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fuse_index.errors import LossError, OptionError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor


def weighted_sum(losses: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Add losses of several models up, each candidate's on its own.

    Args:
        losses: (b,) each, on any devices.
        weights: one for each.

    Returns:
        (b,) float32 on the first one's device.

    Raises:
        ShapeError: numbers of losses, weights or candidates differ.
    """
    if not losses or len(losses) != len(weights) or len({loss.shape for loss in losses}) > 1:
        shapes = ", ".join(str(tuple(loss.shape)) for loss in losses)
        raise ShapeError(
            f"losses of shapes {shapes} and {len(weights)} weights",
            expected="one weight a loss, and losses of one shape (b,)",
        )
    total = torch.zeros_like(losses[0], dtype=torch.float32)
    for loss, weight in zip(losses, weights, strict=True):
        total = total + weight * loss.to(total.device).float()
    return total


def balanced_weights(
    norms: Sequence[float],
    weights: Sequence[float],
    previous: Sequence[float] | None = None,
    momentum: float = 0.0,
) -> tuple[float, ...]:
    """Scale weights so that every objective's gradient counts as its weight says.

    The gradient of objective i, taken with respect to the same variables for all, gets the length
    ``weights[i]`` times a common factor, which keeps the sum of the absolute weights. An objective
    without a gradient keeps its weight and takes no part.

    Args:
        norms: length of each objective's gradient, 0 where it has none.
        weights: what was asked for.
        previous: the last result, for smoothing in the logarithm.
        momentum: share of ``previous`` in the result, in [0, 1).

    Returns:
        The scaled weights.

    Raises:
        OptionError: momentum is outside its range.
        ShapeError: there is not one norm for every weight.
        LossError: a norm is not finite.
    """
    if not 0 <= momentum < 1:
        raise OptionError(f"momentum {momentum}", expected="0 <= momentum < 1")
    if len(norms) != len(weights) or (previous is not None and len(previous) != len(weights)):
        raise ShapeError(
            f"{len(norms)} gradient norms for {len(weights)} weights", expected="one for each"
        )
    if not all(math.isfinite(norm) for norm in norms):
        raise LossError(f"gradient norms {list(norms)}", expected="finite numbers")
    active = [i for i, norm in enumerate(norms) if norm > 0 and weights[i] != 0]
    scaled = list(weights)
    if active:
        raw = {i: weights[i] / norms[i] for i in active}
        factor = sum(abs(weights[i]) for i in active) / sum(abs(value) for value in raw.values())
        for i in active:
            scaled[i] = raw[i] * factor
            if previous is not None and previous[i] * scaled[i] > 0:
                logs = (1 - momentum) * math.log(abs(scaled[i]))
                logs += momentum * math.log(abs(previous[i]))
                scaled[i] = math.copysign(math.exp(logs), scaled[i])
    return tuple(scaled)
