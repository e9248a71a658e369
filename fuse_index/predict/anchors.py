"""Anchors: predictions from gradients with other words in the position, put together.

A first-order prediction at the current word is a poor one for words far from it. The same gradient
averaged over a few other words in the position, the anchors, is a far better one, at the cost of a
gradient each (docs/mathematics.md). ``validate`` measures them; in runs they do not pay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

INVERSE_TEMPERATURE = 4.0
"""Of the softmax of cosines by which candidates weight anchors."""


def centred_cosine(vectors: Tensor, anchors: Tensor) -> Tensor:
    """Return the cosines of candidates and anchors, both centred on the anchors' mean.

    Args:
        vectors: ``(N, d)`` embeddings of the candidates.
        anchors: ``(A, d)`` embeddings of the anchors.

    Returns:
        ``(A, N)``.
    """
    centre = anchors.mean(dim=0)
    units = torch.nn.functional.normalize(anchors - centre, dim=1)
    lengths = (vectors.square().sum(dim=1) - 2 * (vectors @ centre) + centre.square().sum()).clamp(
        min=0
    )
    products = units @ vectors.T - (units @ centre)[:, None]
    return products / lengths.sqrt().clamp(min=1e-12)


def weighted_anchors(losses: Tensor, gradients: Tensor, anchors: Tensor, vectors: Tensor) -> Tensor:
    """Weight the linear predictions of the anchors by their similarity to each candidate.

    Anchor ``i`` predicts ``L_i + g_i . (e_w - e_i)`` for candidate ``w``; the weights are a softmax
    of :func:`centred_cosine` times :data:`INVERSE_TEMPERATURE`.

    Args:
        losses: ``(A,)``.
        gradients: ``(A, d)``.
        anchors: ``(A, d)``, the anchors' vectors.
        vectors: ``(N, d)``, the candidates' vectors.

    Returns:
        ``(N,)``.
    """
    at_anchors = (anchors * gradients).sum(dim=1)
    predicted = gradients @ vectors.T + (losses - at_anchors)[:, None]
    weights = torch.softmax(INVERSE_TEMPERATURE * centred_cosine(vectors, anchors), dim=0)
    return (weights * predicted).sum(dim=0)
