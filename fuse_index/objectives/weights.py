"""Weights of several objectives from the sizes of their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fuse_index.errors import LossError, ShapeError


def balanced_weights(norms: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    """Scale weights so that every objective's gradient counts as its weight says.

    The gradient of objective i, taken with respect to the same variables for all, gets the length
    ``weights[i]`` times a common factor, which keeps the sum of the absolute weights. An objective
    without a gradient keeps its weight and takes no part.

    Args:
        norms: length of each objective's gradient, 0 where it has none.
        weights: what was asked for.

    Returns:
        The scaled weights.

    Raises:
        ShapeError: there is not one norm for every weight.
        LossError: a norm is not finite.
    """
    if len(norms) != len(weights):
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
    return tuple(scaled)
