"""Spans of units in prompts, and the gradient of a loss at one span of every row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.objectives.base import Loss
from fuse_index.predict.layers import layer_gradient
from fuse_index.predict.loss_gradients import EmbeddingOverride, embedding_gradient
from fuse_index.words.ragged import Ragged


@dataclass(frozen=True, eq=False)
class Spans:
    """The units of one prompt.

    Attributes:
        ids: the prompt's source ids.
        offsets: ``(P + 1,)`` int64, where each of its ``P`` units begins.
    """

    ids: tuple[int, ...]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def span_gradients(
    loss: Loss,
    contents: Ragged,
    spans: NDArray[np.int64],
    *,
    layers: bool = False,
    mean: Tensor | None = None,
    residual_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the losses of one term and their gradients at one span of every row.

    Args:
        loss: the term.
        contents: ``b`` rows of its model's token ids.
        spans: ``(b, 2)`` int64, where the span begins and ends among each row's content tokens.
        layers: whether the gradients are taken at the hidden states of every layer, the span's
            path cut (:mod:`fuse_index.predict.layers`), instead of at the embeddings.
        mean: ``(d,)``, an embedding that replaces every span, as one token.
        residual_scale: factor of the gradient through residual branches.

    Returns:
        ``(b,)`` losses and ``(b, d)`` or ``(b, (layers + 1) * d)`` float32, the gradients summed
        over the span's tokens.

    Raises:
        LossError: a loss or a gradient is not finite.
        ModelError: the model's layers or branches cannot be told apart.
    """
    override = None
    if mean is not None:
        contents, spans, override = _with_mean(contents, spans, mean)
    if layers:
        return layer_gradient(loss, contents, spans, override, residual_scale)
    losses, packed = embedding_gradient(loss, contents, override, residual_scale=residual_scale)
    return losses, span_sums(packed, contents.offsets[:-1, None] + spans)


def span_sums(packed: Tensor, spans: NDArray[np.int64]) -> Tensor:
    """Sum packed rows ``(tokens, d)`` over spans ``(b, 2)`` of them -> ``(b, d)``."""
    counts = spans[:, 1] - spans[:, 0]
    row = np.repeat(np.arange(len(spans)), counts)
    first = np.repeat(spans[:, 0] - np.cumsum(counts) + counts, counts)
    index = torch.from_numpy(first + np.arange(len(row))).to(packed.device)
    sums = packed.new_zeros(len(spans), packed.shape[1])
    return sums.index_add_(0, torch.from_numpy(row).to(packed.device), packed[index])


def _with_mean(
    contents: Ragged, spans: NDArray[np.int64], mean: Tensor
) -> tuple[Ragged, NDArray[np.int64], EmbeddingOverride]:
    """Replace every span by one token that carries another embedding."""
    rows = []
    for ids, (begin, end) in zip(contents.to_lists(), spans.tolist(), strict=True):
        rows.append([*ids[:begin], ids[begin], *ids[end:]])
    begins = spans[:, 0]
    short = np.stack([begins, begins + 1], axis=1)
    return Ragged.from_lists(rows), short, EmbeddingOverride(begins, mean)
