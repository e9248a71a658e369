"""Hidden states of units in every layer of a model, averaged over contexts.

The hidden state of a word or token in a prompt depends on the unit for the most part, and on the
context for the rest. The first part is computed beforehand: every unit stands between a few other
words, the same for all units, and its states there are averaged. Their differences between units
estimate those in any prompt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.common.options import NaturalWidth, Seed, Width, options
from fuse_index.common.progress import Tick
from fuse_index.errors import ModelError
from fuse_index.models.base import Model
from fuse_index.models.batching import BatchSize
from fuse_index.models.causal import CausalModel
from fuse_index.models.layers import span_states
from fuse_index.models.prefix import Prefix
from fuse_index.words.ragged import Ragged

Context = tuple[list[int], list[int]]
"""Tokens before a unit, and behind it."""

logger = logging.getLogger(__name__)

_CPU_TOKENS, _GPU_TOKENS = 3072, 65536
"""Tokens of one forward pass."""
_TIMED = 256
"""Units of an estimate of time."""
_SAMPLES = 4096
"""Tokens of the vocabulary that are looked at to find words for contexts."""


@options(label="contexts")
class Contexts:
    """Contexts in which the states of units are computed.

    Attributes:
        count: contexts that the states of a unit are averaged over.
        words: words on each side of it, at most.
        seed: of the draw.
        texts: running texts to cut contexts from; without any they are random words of the model's
            vocabulary, the same for all units, so that states of more units can be added.
    """

    count: Width = 4
    words: NaturalWidth = 3
    seed: Seed = 0
    texts: tuple[str, ...] = ()

    def draw(self, model: Model) -> list[Context]:
        """Draw the tokens before and behind the unit in every context.

        Args:
            model: whose tokens.
        """
        rng = np.random.default_rng([self.seed, self.count])
        if not self.texts:
            size = 2 * self.count * self.words
            pool = _vocabulary_words(model, size, np.random.default_rng(self.seed))
            pool = (pool * size)[:size]
            sides = [pool[i : i + self.words] for i in range(0, size, max(self.words, 1))]
            return list(zip(sides[::2], sides[1::2], strict=True)) or [([], [])] * self.count
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


def _vocabulary_words(model: Model, count: int, rng: np.random.Generator) -> list[int]:
    """Draw tokens that are whole words of letters; fewer where the vocabulary has fewer."""
    size = model.vocabulary_size
    ids = rng.permutation(size)[:_SAMPLES].tolist()
    texts = [text.strip() for text in model.words.decode_batch([[i] for i in ids])]
    known = {i: text for i, text in zip(ids, texts, strict=True) if text.isalpha()}
    rows = model.words.encode_words(list(known.values())).to_lists()
    return [i for i, row in zip(known, rows, strict=True) if row == [i]][:count]


def hidden_states(
    model: Model, tokens: Ragged, contexts: Contexts | None = None, progress: Tick | None = None
) -> Tensor:
    """Return the hidden states of units in every layer.

    It takes ``contexts.count`` short forward passes a unit, once for a model and its units. The
    output layer is left out. What stands before a unit is run once in a causal model, and what
    stands behind not at all, because no state depends on it.

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
    logger.info("%s: states of %d units in %d contexts", model.name, len(tokens), contexts.count)
    order = np.argsort(tokens.lengths, kind="stable")
    ordered = tokens.select(order)
    total = torch.zeros(len(tokens), (len(model.layers) + 1) * model.width, device=model.device)
    for done, (before, behind) in enumerate(contexts.draw(model)):
        for part, states in _place(model, before, behind).run(ordered):
            total[part] += states
            if progress is not None:
                progress(done * len(tokens) + part.stop, contexts.count * len(tokens))
    found = torch.empty_like(total)
    found[torch.from_numpy(order).to(found.device)] = total.div_(contexts.count)
    return found


def states_cost(model: Model, count: int, contexts: Contexts | None = None) -> tuple[int, int]:
    """Return what the states of units take: bytes, and short forward passes.

    Args:
        model: runs the units.
        count: units.
        contexts: the contexts.

    Raises:
        ModelError: the model's layers cannot be told apart.
    """
    contexts = contexts or Contexts()
    return 4 * count * (len(model.layers) + 1) * model.width, contexts.count * count


def states_seconds(model: Model, units: Ragged, contexts: Contexts) -> float:
    """Estimate how long :func:`hidden_states` takes, from some of the units in one context.

    Args:
        model: runs the units.
        units: ``N`` units, at least one.
        contexts: the contexts.
    """
    order = np.argsort(units.lengths, kind="stable")
    sample = units.select(order[:: max(len(units) // _TIMED, 1)])
    place = _place(model, *contexts.draw(model)[0])
    for _ in range(2):  # the first time warms up
        begin = time.perf_counter()
        for _part, states in place.run(sample):
            states[0, 0].item()  # waits for a GPU
        seconds = time.perf_counter() - begin
    return contexts.count * seconds * len(units) / len(sample)


@dataclass(frozen=True)
class _Place:
    """One context of a model, with the keys and values before the unit where it keeps them."""

    model: Model
    before: Sequence[int]
    behind: Sequence[int]
    prefix: Prefix | None

    def run(self, tokens: Ragged) -> Iterator[tuple[slice, Tensor]]:
        """Yield the states ``(n, (layers + 1) * width)`` of runs of units.

        Args:
            tokens: units, the shortest first: those of one length are run together, so that
                nothing is padded.
        """
        most = _GPU_TOKENS if self.model.device.type == "cuda" else _CPU_TOKENS
        around = 0 if self.prefix is not None else len(self.before) + len(self.behind)
        lengths, counts = np.unique(tokens.lengths, return_counts=True)
        first = 0
        for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
            ids = tokens.select(np.arange(first, first + count)).values.reshape(count, length)
            size = BatchSize(max(most // (length + around), 1))
            for part, states in size.map(count, partial(self._states, ids)):
                yield slice(first + part.start, first + part.stop), states
            first += count

    def _states(self, ids: NDArray[np.int64], part: slice) -> Tensor:
        if not self._has_room(ids.shape[1]):  # then less stands before the unit
            return replace(self, prefix=None)._states(ids, part)
        model, ids = self.model, ids[part]
        count = len(ids)
        before, behind = self._fitting(ids.shape[1])
        row = [
            np.repeat(np.array(side, dtype=np.int64)[None], count, 0) for side in (before, behind)
        ]
        batch = model.batch(Ragged.from_rows(np.concatenate([row[0], ids, row[1]], axis=1)))
        begin = batch.start + len(before)
        prefix = self.prefix
        skipped = 0 if prefix is None else len(prefix)
        with torch.no_grad():
            states = span_states(
                model.layers,
                slice(begin - skipped, begin - skipped + ids.shape[1]),
                lambda: model.forward(model.embed(batch.ids), batch, prefix=prefix),
            )
        return torch.cat([own.float().mean(dim=1).to(model.device) for own in states], dim=1)

    def _has_room(self, length: int) -> bool:
        """Whether a unit fits behind what was run before it."""
        positions = self.model.positions
        return self.prefix is None or positions is None or len(self.prefix) + length <= positions

    def _fitting(self, length: int) -> tuple[Sequence[int], Sequence[int]]:
        """What of the context fits around a unit in the model's positions."""
        frame, positions = self.model.frame, self.model.positions
        if positions is None or self.prefix is not None:
            return self.before, self.behind
        room = max(positions - len(frame.head) - len(frame.tail) - length, 0)
        kept = self.before[max(len(self.before) - room, 0) :]
        return kept, self.behind[: room - len(kept)]


def _place(model: Model, before: Sequence[int], behind: Sequence[int]) -> _Place:
    if not isinstance(model, CausalModel):
        return _Place(model, before, behind, None)
    ids = [*model.frame.head, *before]
    try:
        short = model.positions is None or 2 * len(ids) < model.positions
        prefix = model.prefill(ids) if ids and short else None
    except ModelError:  # its layers have another kind of memory
        prefix = None
    return _Place(model, before, (), prefix)
