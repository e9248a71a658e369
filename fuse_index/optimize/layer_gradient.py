"""Gradients at a word's hidden states in every layer, the word's own path cut.

``L(w) ~ L(a) + sum_j g_j . (h_j(w) - h_j(a))``: layer ``j``'s gradient ``g_j`` is what the other
positions and the head read from the word's hidden state ``h_j`` there; what the layers make of the
word by itself is not expanded but looked up (:mod:`fuse_index.optimize.layer_words`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.models.layers import CutStates
from fuse_index.optimize.gradient import Put, embedded, require_finite_gradient

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch
    from fuse_index.objectives.base import Loss
    from fuse_index.words.ragged import Ragged


def layer_gradient(
    loss: Loss,
    contents: Ragged,
    spans: NDArray[np.int64],
    put: Put | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a term's losses and their gradients at one word's states of every row.

    Args:
        loss: the term.
        contents: ``b`` rows of the model's token ids.
        spans: ``(b, 2)``, where the word begins and ends among each row's content tokens.
        put: other embeddings for one token of every row.

    Returns:
        ``(b,)`` losses and ``(b, (layers + 1) * width)`` float32: the gradients at the input of
        every layer and behind the last, one after another, summed over the word's tokens.

    Raises:
        LossError: a loss or a gradient is not finite.
        ModelError: the model's layers cannot be told apart.
    """
    batch, embeds = embedded(loss, contents, put)
    embeds.requires_grad_()  # so that no loss takes what rows share from a cache
    where = word_positions(batch, spans[:, 0], spans[:, 1])
    losses, sums = cut_gradient(loss.model, where, lambda: loss(embeds, batch))
    require_finite_gradient(losses, sums, loss, batch)
    return losses, sums


def cut_gradient(model: Model, where: Tensor, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Return losses and their gradients at hidden states, with their own paths cut.

    Args:
        model: whose layers.
        where: ``(b, L)`` bool, which positions are cut.
        run: runs the model on a batch of that shape and returns ``(b,)`` losses.

    Returns:
        ``(b,)`` and ``(b, (layers + 1) * width)`` float32, summed over the positions of a row.

    Raises:
        ModelError: the model's layers cannot be told apart.
    """
    with torch.enable_grad(), CutStates(model.layers, where) as cut:
        losses = run()
    found = torch.autograd.grad(losses.sum(), cut.states, allow_unused=True)
    pairs = zip(cut.states, found, strict=True)
    sums = cut.sums([torch.zeros_like(state) if own is None else own for state, own in pairs])
    return losses.detach(), sums


def word_positions(batch: Batch, begin: NDArray[np.int64], end: NDArray[np.int64]) -> Tensor:
    """Return ``(b, L)`` bool: where one word of every row stands, given among content tokens."""
    positions = np.arange(batch.ids.shape[1]) - batch.start
    here = (positions >= begin[:, None]) & (positions < end[:, None])
    return torch.from_numpy(here).to(batch.ids.device)
