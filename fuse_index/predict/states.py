"""Hidden states of units in every layer of a model, averaged over contexts.

The hidden state of a word or token in a prompt depends on the unit for the most part, and on the
context for the rest. The first part is computed beforehand: every unit stands between a few other
words, the same for all units, and its states there are averaged. Their differences between units
estimate those in any prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.common.options import Count, Natural, options
from fuse_index.models.batching import BatchSize
from fuse_index.models.layers import CutStates
from fuse_index.predict.layers import span_mask
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from fuse_index.common.progress import Tick
    from fuse_index.models.base import Model

Context = tuple[list[int], list[int]]
"""Tokens before a unit, and behind it."""

logger = logging.getLogger(__name__)

_CPU_ROWS, _GPU_ROWS = 256, 1024


@options(label="contexts")
class Contexts:
    """Contexts in which the states of units are computed.

    Attributes:
        count: contexts that the states of a unit are averaged over.
        words: words on each side of it, at most.
        seed: of the draw.
        texts: running texts to cut contexts from; without any they are random words.
    """

    count: Count = 4
    words: Natural = 3
    seed: Natural = 0
    texts: tuple[str, ...] = ()

    def draw(self, model: Model, tokens: Ragged) -> list[Context]:
        """Draw the tokens before and behind the unit in every context.

        Args:
            model: whose tokens.
            tokens: ``N`` units in its tokens, of which contexts consist without texts.
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


def hidden_states(
    model: Model, tokens: Ragged, contexts: Contexts | None = None, progress: Tick | None = None
) -> Tensor:
    """Return the hidden states of units in every layer.

    It takes ``contexts.count`` short forward passes a unit, once for a model and its units.

    Args:
        model: runs the units.
        tokens: ``N`` units in its tokens, at least one each.
        contexts: the contexts.
        progress: called with (units done, units in all), over all contexts together.

    Returns:
        ``(N, (layers + 1) * width)`` float32 on the model's device: the input of every layer and
        the output of the last, averaged over the unit's tokens and the contexts.

    Raises:
        ModelError: the model's layers cannot be told apart.
    """
    contexts = contexts or Contexts()
    rows = BatchSize(_GPU_ROWS if model.device.type == "cuda" else _CPU_ROWS)
    logger.info("%s: states of %d units in %d contexts", model.name, len(tokens), contexts.count)
    # units of like length share a batch, so that little is padded
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


def states_cost(model: Model, count: int, contexts: Contexts | None = None) -> str:
    """Return what the states of units take, for people: memory, and forward passes.

    Args:
        model: runs the units.
        count: units.
        contexts: the contexts.

    Raises:
        ModelError: the model's layers cannot be told apart.
    """
    contexts = contexts or Contexts()
    size = 4 * count * (len(model.layers) + 1) * model.width
    return f"{size / 1e6:,.0f} MB, {contexts.count * count:,} short passes"


def _reported(
    parts: Iterator[tuple[slice, Tensor]], before: int, whole: int, progress: Tick | None
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
    where = span_mask(batch, begin, begin + words.lengths)
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
