"""Sample queries for a word index: negative gradients of a model's own loss at random texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import ModelError
from fuse_index.objectives.base import Loss
from fuse_index.objectives.target_loss import TargetLoss, loss_for
from fuse_index.predict.loss_gradients import embedding_gradient
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.base import Model

_TEXT_WORDS = 8
_BATCH = 32
SAMPLES = 256
"""Queries that are drawn: half of them choose an index, the others measure it."""


def sample_queries(
    model: Model,
    tokens: Ragged,
    counts: NDArray[np.int64],
    *,
    slots: int | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Tensor:
    """Draw negative gradients as an optimizer of prompts would ask them.

    Texts are eight words of the table, the frequent ones more often. The loss is what the model is
    made for: similarity to another such text, a random label, or the text's likelihood.

    Args:
        model: whose gradients.
        tokens: ``n`` rows: the words' tokens in the model.
        counts: ``(n,)``, how often each word occurs.
        slots: ``None`` sums the gradient over a word's tokens; a number gives one part a token,
            padded with zeros, as padded vectors need it.
        samples: how many.
        seed: of the draw.

    Returns:
        ``(samples, d)`` or ``(samples, slots * d)`` float32 on the CPU.

    Raises:
        ModelError: the gradients are not finite, or all zero.
    """
    rng = np.random.default_rng([seed, 2])
    found: list[Tensor] = []
    for _ in range(4 * -(-samples // _BATCH)):
        found.append(_batch(model, tokens, counts, slots, rng))
        if sum(map(len, found)) >= samples:
            break
    queries = torch.cat(found)[:samples]
    if not len(queries) or not bool(torch.isfinite(queries).all()):
        raise ModelError(
            f"{model.name}: gradients at random texts are zero or not finite",
            expected="finite gradients",
            remedy="load the model in float32, or build an index of kind 'flat' or 'tokens'",
        )
    return queries


def _batch(
    model: Model,
    tokens: Ragged,
    counts: NDArray[np.int64],
    slots: int | None,
    rng: np.random.Generator,
) -> Tensor:
    """Gradients that are not zero, at one position of each of a batch of texts."""
    chosen = _texts(counts, rng)
    contents = Ragged.from_lists([tokens.select(row).values.tolist() for row in chosen])
    packed = embedding_gradient(_loss(model, tokens, counts, rng), contents)[1]
    lengths = tokens.lengths[chosen]  # (b, words)
    position = rng.integers(chosen.shape[1] - 1, size=len(chosen))  # the last has no context left
    queries = []
    for row, place in enumerate(position):
        start = int(contents.offsets[row]) + int(lengths[row, :place].sum())
        word = -packed[start : start + int(lengths[row, place])].cpu()
        if slots is None:
            queries.append(word.sum(0))
        else:
            padded = word.new_zeros(slots, word.shape[1])
            padded[: len(word)] = word[:slots]
            queries.append(padded.flatten())
    stacked = torch.stack(queries)
    return stacked[stacked.abs().amax(1) > 0]


def _texts(counts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """``(batch, words)``: rows of the word table."""
    weights = counts + 1.0
    drawn = rng.choice(len(counts), size=(_BATCH, _TEXT_WORDS), p=weights / weights.sum())
    return drawn.astype(np.int64)


def _loss(
    model: Model, tokens: Ragged, counts: NDArray[np.int64], rng: np.random.Generator
) -> Loss:
    loss = loss_for(model.kind)
    other, label = "", 0
    if loss is TargetLoss.LABEL:
        label = int(rng.integers(max(len(getattr(model, "labels", ())), 1)))
    elif loss is TargetLoss.SIMILARITY:
        other = model.words.decode(tokens.select(_texts(counts, rng)[0]).values.tolist())
    return loss.objective(other=other, label=label).prepare(model)
