"""Predictions from gradients at a word's hidden states in every layer.

They take the gradients that :mod:`fuse_index.optimize.layer_gradient` does and meet them with the
words' states of :mod:`fuse_index.optimize.layer_words`; like all predictions they are ``(m,)``
scores, lower is better, up to a constant that is the same for every candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.evaluate.sampling import Task
from fuse_index.optimize.anchored import likeness, weighted
from fuse_index.optimize.layer_gradient import cut_gradient, word_positions
from fuse_index.optimize.layer_store import kept_layer_vectors
from fuse_index.optimize.layer_words import Contexts
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.evaluate.losses import RowLoss
    from fuse_index.models.base import Model

CONTEXTS = 16
"""Contexts that a word's states are averaged over."""
AT_CURRENT = "layers_at_current"
"""From the unchanged text: one backward pass, as ``word_at_current``."""
ANCHORED = "layers_anchored"
"""From the average of the gradients at anchors."""
WEIGHTED = "layers_weighted"
"""From the anchors, weighed by likeness, as ``word_weighted``."""


@dataclass(frozen=True, eq=False)
class WordStates:
    """Hidden states of some rows of a word table.

    Attributes:
        rows: ``(n,)`` int64, ascending.
        states: ``(n, (layers + 1) * width)``.
    """

    rows: NDArray[np.int64]
    states: Tensor

    @classmethod
    def of(
        cls,
        model: Model,
        tokens: Ragged,
        rows: NDArray[np.int64],
        texts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> WordStates:
        """Run the words that are needed through the model, in contexts cut from texts.

        Where most words are, all are run, so that other calls find them in the cache.
        """
        rows = np.unique(rows)
        if 2 * len(rows) > len(tokens):
            rows = np.arange(len(tokens))
        contexts = Contexts(count=CONTEXTS, texts=tuple(texts))
        return cls(rows, kept_layer_vectors(model, tokens.select(rows), contexts, progress))

    def __getitem__(self, rows: NDArray[np.int64]) -> Tensor:
        places = torch.from_numpy(np.searchsorted(self.rows, rows))
        return self.states[places.to(self.states.device)]


def predict_by_layers(
    task: Task,
    words: Ragged,
    anchors: NDArray[np.int64],
    states: WordStates,
    *,
    model: Model,
    loss_of: RowLoss,
) -> dict[str, Tensor]:
    """Predict with the gradients at the unchanged text, and at anchors if there are any.

    Args:
        task: the text and the candidates.
        words: every row's tokens in the target.
        anchors: ``(a,)`` rows that are put into the position.
        states: of the candidates and the anchors.
        model: the target.
        loss_of: its loss.

    Returns:
        Predictions by name.
    """
    candidates = states[task.candidates]
    current = task.tokens[task.position]
    _, at_current = _gradient(task, Ragged.from_lists([current.tolist()]), model, loss_of)
    found = {AT_CURRENT: candidates @ at_current[0]}
    if len(anchors):
        losses, gradients = _gradient(task, words.select(anchors), model, loss_of)
        own, values = states[anchors], gradients @ candidates.T
        found[ANCHORED] = values.mean(0)
        at_itself = (own * gradients).sum(1)
        found[WEIGHTED] = weighted(values, losses, at_itself, likeness(candidates, own))
    return found


def _gradient(task: Task, words: Ragged, model: Model, loss_of: RowLoss) -> tuple[Tensor, Tensor]:
    """``(a,)`` losses, ``(a, (layers + 1) * width)`` gradients, with each word in the position."""
    rows = [np.concatenate([task.before, word, task.after]).tolist() for word in words]
    batch = model.batch(rows)
    begin = np.full(len(words), len(task.before), dtype=np.int64)
    where = word_positions(batch, begin, begin + words.lengths)
    losses, sums = cut_gradient(model, where, lambda: loss_of(model.embed(batch.ids), batch))
    return losses.float(), sums
