"""Weights of losses: one vector, or another one at every prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
"""``(losses,)``: the weights of the losses; what weighs nothing is not computed."""


def by_weights(weights: Weights) -> list[tuple[NDArray[np.int64], Weights]]:
    """Split prompts by the weights of their losses, so that those of a part have one sum.

    Args:
        weights: ``(n, losses)``.

    Returns:
        The rows of each part, in order, and its weights ``(losses,)``.
    """
    parts: dict[bytes, list[int]] = {}
    for row, own in enumerate(weights):
        parts.setdefault(own.tobytes(), []).append(row)
    return [(np.array(rows, dtype=np.int64), weights[rows[0]]) for rows in parts.values()]
