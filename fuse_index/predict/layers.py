"""Gradients at the hidden states of a span in every layer, the span's path cut.

``L(w) ~ L(a) + sum_j g_j . (h_j(w) - h_j(a))``: layer ``j``'s gradient ``g_j`` is taken at the
unit's hidden state ``h_j``, as the other positions and the head read it. What the layers compute
from the unit itself is not expanded but looked up (:mod:`fuse_index.predict.states`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.models.batch import Batch
from fuse_index.models.layers import CutStates
from fuse_index.objectives.base import Loss
from fuse_index.predict.loss_gradients import (
    EmbeddingOverride,
    embedded,
    require_finite_gradient,
    residual_gradient,
)
from fuse_index.words.ragged import Ragged


def layer_gradient(
    loss: Loss,
    contents: Ragged,
    spans: NDArray[np.int64],
    override: EmbeddingOverride | None = None,
    residual_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return a term's losses and their gradients at the states of one span of every row.

    Args:
        loss: the term.
        contents: ``b`` rows of the model's token ids.
        spans: ``(b, 2)``, where the span begins and ends among each row's content tokens.
        override: other embeddings for one token of every row.
        residual_scale: factor of the gradient through residual branches.

    Returns:
        ``(b,)`` losses and ``(b, (layers + 1) * width)`` float32: the gradients at the input of
        every layer and behind the last, one after another, summed over the span's tokens. A loss
        that runs no layer has its gradient at the embeddings instead of at the first input.

    Raises:
        LossError: a loss or a gradient is not finite.
        ModelError: the model's layers or branches cannot be told apart.
    """
    batch, embeds = embedded(loss, contents, override)
    embeds.requires_grad_()  # so that no loss takes what rows share from a cache
    where = span_mask(batch, spans[:, 0], spans[:, 1])
    scaled, layers = residual_gradient(loss, residual_scale), loss.model.layers
    with torch.enable_grad(), scaled, CutStates(layers, where) as cut:
        losses = loss(embeds, batch)
    leaves = cut.states or [embeds]
    found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
    pairs = zip(leaves, found, strict=True)
    parts = [torch.zeros_like(leaf) if own is None else own for leaf, own in pairs]
    if not cut.states:
        first = parts[0][where]
        parts = [first, *(torch.zeros_like(first) for _ in loss.model.layers)]
    sums = cut.sums(parts)
    losses = losses.detach()
    require_finite_gradient(losses, sums, loss, batch)
    return losses, sums


def span_mask(batch: Batch, begin: NDArray[np.int64], end: NDArray[np.int64]) -> Tensor:
    """Return ``(b, L)`` bool: the positions of one span of every row, counted in its content."""
    positions = np.arange(batch.ids.shape[1]) - batch.start
    here = (positions >= begin[:, None]) & (positions < end[:, None])
    return torch.from_numpy(here).to(batch.ids.device)
