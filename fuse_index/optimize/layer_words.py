"""What every layer of a model makes of words: their hidden states, averaged over contexts.

A word's hidden state in a prompt is the word's own doing for the most part and the context's for
the rest. The first part can be known beforehand: every word is put between a few others, the same
for all words, and its states there are averaged. Their differences between words stand for those in
any prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.errors import OptionError
from fuse_index.models.layers import CutStates
from fuse_index.optimize.batching import BatchSize
from fuse_index.optimize.layer_gradient import word_positions
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from fuse_index.models.base import Model

Progress = Callable[[int, int], None]
Context = tuple[list[int], list[int]]
"""Tokens before a word, and behind it."""

logger = logging.getLogger(__name__)

_CPU_ROWS, _GPU_ROWS = 256, 1024


@dataclass(frozen=True)
class Contexts:
    """Where words are looked at.

    Attributes:
        count: contexts that a word's states are averaged over.
        words: words on each side of it, at most.
        seed: of the draw.
        texts: running texts to cut contexts from; without any they are random words.
    """

    count: int = 4
    words: int = 3
    seed: int = 0
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in {"count": 1, "words": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise OptionError(
                    f"contexts: {name}={getattr(self, name)}", expected=f"at least {least}"
                )

    def draw(self, model: Model, tokens: Ragged) -> list[Context]:
        """Draw the tokens before and behind the word in every context.

        Args:
            model: whose tokens.
            tokens: ``N`` words in its tokens, which the contexts are made of without texts.
        """
        rng = np.random.default_rng([self.seed, self.count])
        if not self.texts:
            sides = rng.integers(len(tokens), size=(self.count, 2, self.words))
            return [(_joined(tokens, before), _joined(tokens, behind)) for before, behind in sides]
        found = []
        for _ in range(self.count):
            words = self.texts[int(rng.integers(len(self.texts)))].split()
            here = int(rng.integers(len(words))) if words else 0
            own = model.words.encode_words(words)
            before = np.arange(max(here - self.words, 0), here)
            behind = np.arange(here + 1, min(here + 1 + self.words, len(words)))
            found.append((_joined(own, before), _joined(own, behind)))
        return found


def _joined(tokens: Ragged, words: NDArray[np.int64]) -> list[int]:
    return [token for word in words for token in tokens[int(word)].tolist()]


def layer_vectors(
    model: Model, tokens: Ragged, contexts: Contexts | None = None, progress: Progress | None = None
) -> Tensor:
    """Return the hidden states of words in every layer.

    It takes ``contexts.count`` short forward passes a word, once for a model and its words.

    Args:
        model: whose.
        tokens: ``N`` words in its tokens, at least one each.
        contexts: where the words are looked at.
        progress: called with (words looked at, of all contexts together).

    Returns:
        ``(N, (layers + 1) * width)`` float32 on the model's device: the input of every layer and
        the output of the last, averaged over the word's tokens and the contexts.

    Raises:
        ModelError: the model's layers cannot be told apart.
    """
    contexts = contexts or Contexts()
    rows = BatchSize(_GPU_ROWS if model.device.type == "cuda" else _CPU_ROWS)
    logger.info("%s: %d words in %d contexts", model.name, len(tokens), contexts.count)
    # words of like length share a batch, so that little is padded
    order = np.argsort(tokens.lengths, kind="stable")
    ordered = tokens.select(order)
    total: Tensor | None = None
    whole = contexts.count * len(tokens)
    for done, (before, behind) in enumerate(contexts.draw(model, tokens)):
        parts = rows.map(len(ordered), partial(_states, model, ordered, before, behind))
        own = torch.cat(list(_reported(parts, done * len(tokens), whole, progress)))
        total = own if total is None else total.add_(own)
    assert total is not None
    found = torch.empty_like(total)
    found[torch.from_numpy(order).to(found.device)] = total / contexts.count
    return found


def _reported(
    parts: Iterator[tuple[slice, Tensor]], before: int, whole: int, progress: Progress | None
) -> Iterator[Tensor]:
    for part, states in parts:
        if progress is not None:
            progress(before + part.stop, whole)
        yield states


def _states(
    model: Model, ordered: Ragged, before: Sequence[int], behind: Sequence[int], part: slice
) -> Tensor:
    """``(n, (layers + 1) * width)``: the states of a run of words in one context."""
    words = ordered.select(np.arange(part.start, part.stop))
    fitting = _room(model, words, before, behind)
    rows = [[*fitting[0], *word.tolist(), *fitting[1]] for word in words]
    batch = model.batch(Ragged.from_lists(rows))
    begin = np.full(len(words), len(fitting[0]), dtype=np.int64)
    where = word_positions(batch, begin, begin + words.lengths)
    with torch.no_grad(), CutStates(model.layers, where) as cut:
        model.forward(model.embed(batch.ids), batch)
        sums = cut.sums(cut.states)
    return sums / torch.from_numpy(words.lengths).to(sums.device)[:, None]


def _room(
    model: Model, words: Ragged, before: Sequence[int], behind: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """What of a context fits around the words in the model's positions."""
    if model.positions is None:
        return before, behind
    special = len(model.frame.head) + len(model.frame.tail)
    room = max(model.positions - special - int(words.lengths.max()), 0)
    kept = before[max(len(before) - room, 0) :]
    return kept, behind[: room - len(kept)]
