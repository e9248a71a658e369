"""First-order predictions for whole words, in word space and through the adapter.

For a word in one place of a prompt, the change of a loss is predicted by the summed gradient of the
place's tokens times the mean embedding of the candidate's tokens (*word space*; needs no adapter),
or by that gradient pulled back to the candidate's source tokens through the adapter of its own
group. A gradient taken at the current word predicts far-away words poorly; taken at *anchors* in
the place (the mean word, or random words) it does far better (docs/mathematics.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.optimize.gradient import Put, embedding_gradient
from fuse_index.optimize.lexicon import replace_words
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from fuse_index.optimize.gradient import Differentiator
    from fuse_index.optimize.lexicon import Lexicon
    from fuse_index.optimize.reader import Reader
    from fuse_index.optimize.state import Ids, Losses

_ROWS = 32
"""Prompts of one backward pass."""


class Expansion(str, Enum):
    """Where the gradient is taken that a prediction starts from."""

    CURRENT = "current"
    """At the prompt itself: one gradient for all places."""
    MEAN_WORD = "mean_word"
    """With the mean embedding of all words in the place: one gradient a place."""
    ANCHORS = "anchors"
    """With random words in the place, averaged: one gradient a place and anchor."""


@dataclass(frozen=True, eq=False)
class Places:
    """The words of one prompt.

    Attributes:
        ids: the prompt.
        offsets: ``(W + 1,)`` where each word begins.
    """

    ids: Ids
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, eq=False)
class _Points:
    """Prompts whose gradient is taken, and the place that counts in each (None: all places)."""

    rows: Ragged
    slots: NDArray[np.int64] | None
    mean_word: bool = False

    def part(self, begin: int, end: int) -> _Points:
        """Some of the prompts."""
        chosen = np.arange(begin, min(end, len(self.rows)))
        slots = None if self.slots is None else self.slots[chosen]
        return _Points(self.rows.select(chosen), slots, self.mean_word)


@dataclass(frozen=True, eq=False)
class PlaceGradient:
    """The gradient of the terms of one model, by place.

    Attributes:
        reader: who reads the prompts for the model.
        sums: ``(S, d)`` float32, summed over the tokens of each place, averaged over anchors.
        current: ``(S, d)`` float32, the mean embedding of each place's own tokens.
    """

    reader: Reader
    sums: Tensor
    current: Tensor


class WordDifferentiator:
    """Predicts the change of a problem's total loss for whole words.

    Args:
        gradients: of the problem.
        lexicon: the words.
        generator: draws anchors.
    """

    def __init__(
        self, gradients: Differentiator, lexicon: Lexicon, generator: torch.Generator
    ) -> None:
        self.gradients = gradients
        self.problem = gradients.problem
        self.lexicon = lexicon
        self._generator = generator
        self._adapted: dict[int, AdaptedWords] = {}

    def places(self, ids: Ids) -> Places:
        """Cut a prompt into its words."""
        offsets, _ = self.problem.words.offsets(Ragged.from_lists([ids]))
        return Places(ids, offsets)

    def at(
        self,
        places: Places,
        weights: Losses,
        *,
        slots: Sequence[int] | None = None,
        expansion: Expansion = Expansion.CURRENT,
        anchors: int = 8,
    ) -> list[PlaceGradient]:
        """Take the gradient at places of a prompt.

        Args:
            places: the prompt.
            weights: ``(terms,)``.
            slots: ``S`` of its ``W`` words; all by default.
            expansion: where it is taken.
            anchors: random words a place, for :attr:`Expansion.ANCHORS`.

        Returns:
            One gradient a model, the terms of a model summed.
        """
        wanted = list(range(len(places)) if slots is None else slots)
        taken = self._expanded(places, wanted, expansion, anchors)
        rows = taken.rows
        self.gradients.spent.gradients += len(rows)
        found = self._by_model(weights, lambda term: self._sums(term, len(places), taken)[wanted])
        return [
            PlaceGradient(own.reader, own.sums, self._current(own.reader, places)[wanted])
            for own in found
        ]

    def at_mean_word(
        self, prompts: Ragged, slots: NDArray[np.int64], weights: Losses
    ) -> list[PlaceGradient]:
        """Take the gradient with the mean word in one place of each of several prompts.

        Args:
            prompts: ``S`` rows of source ids.
            slots: ``(S,)``, which word of each; what stands there does not matter.
            weights: ``(terms,)``.

        Returns:
            One gradient a model, the terms of a model summed; ``current`` is zero, so that the
            predicted changes are those from the mean word, up to a constant a prompt.
        """
        points = _Points(prompts, slots, mean_word=True)
        self.gradients.spent.gradients += len(prompts)
        return self._by_model(weights, lambda term: self._slot_sums(term, points)[0])

    def _by_model(self, weights: Losses, sums_of: Callable[[int], Tensor]) -> list[PlaceGradient]:
        """Weigh the terms' gradients and add up those of one model; ``current`` is zero."""
        readers: dict[int, Reader] = {}
        totals: dict[int, Tensor] = {}
        for term in self.gradients.terms:
            weight = float(weights[term])
            if weight:
                reader = self.problem.readers[term]
                readers[id(reader)] = reader
                sums = weight * sums_of(term)
                totals[id(reader)] = totals[id(reader)] + sums if id(reader) in totals else sums
        return [
            PlaceGradient(readers[key], sums, torch.zeros_like(sums))
            for key, sums in totals.items()
        ]

    def in_word_space(self, gradients: list[PlaceGradient]) -> Tensor:
        """Return the predicted change for every word in every place, in word space.

        Returns:
            ``(S, N)`` float32 on the source's device; lower is better.
        """
        device = self.problem.source.device
        total: Tensor | None = None
        for own in gradients:
            vectors = self.lexicon.of(own.reader.model).vectors
            change = own.sums @ vectors.T - (own.sums * own.current).sum(dim=1, keepdim=True)
            total = change.to(device) if total is None else total + change.to(device)
        assert total is not None
        return total

    def through_adapter(self, gradients: list[PlaceGradient]) -> Tensor:
        """Return the predicted change for every word in every place, through the adapters.

        Models with the source's tokens have no adapter and are predicted in word space.

        Returns:
            ``(S, N)`` float32 on the source's device; lower is better, up to a constant a place.
        """
        device = self.problem.source.device
        total: Tensor | None = None
        for own in gradients:
            if own.reader.same_tokens:
                change = self.in_word_space([own])
            else:
                change = self._adapter_words(own.reader).scores(own.sums)
            total = change.to(device) if total is None else total + change.to(device)
        assert total is not None
        return total

    def _adapter_words(self, reader: Reader) -> AdaptedWords:
        if id(reader) not in self._adapted:
            target = self.lexicon.of(reader.model).tokens
            self._adapted[id(reader)] = AdaptedWords(reader, self.lexicon.source, target)
        return self._adapted[id(reader)]

    def _expanded(
        self, places: Places, slots: list[int], expansion: Expansion, anchors: int
    ) -> _Points:
        if expansion is Expansion.CURRENT:
            return _Points(Ragged.from_lists([places.ids]), None)
        if expansion is Expansion.MEAN_WORD:
            rows = Ragged.from_lists([places.ids] * len(slots))
            return _Points(rows, np.array(slots), mean_word=True)
        drawn = torch.randint(
            0, len(self.lexicon), (len(slots), anchors), generator=self._generator
        )
        replaced = [
            replace_words(places.ids, places.offsets, [slot], [self.lexicon.source[word].tolist()])
            for slot, words in zip(slots, drawn.tolist(), strict=True)
            for word in words
        ]
        return _Points(Ragged.from_lists(replaced), np.repeat(slots, anchors))

    def _sums(self, term: int, count: int, points: _Points) -> Tensor:
        """``(W, d)``: the gradient of one term, summed over the tokens of each place."""
        loss, reader = self.problem.losses[term], self.problem.readers[term]
        if points.slots is not None:
            sums, counted = self._slot_sums(term, points, count)
            slots = torch.from_numpy(points.slots).to(sums.device)
            total = sums.new_zeros(count, sums.shape[1]).index_add_(0, slots, sums)
            taken = sums.new_zeros(count).index_add_(0, slots, counted.to(sums))
            return total / taken.clamp(min=1)[:, None]
        contents, offsets, first = self._cut(reader, points.rows)
        if int(first[1] - first[0]) != count:
            return torch.zeros(count, loss.model.width, device=loss.model.device)
        return _segment_sums(embedding_gradient(loss, contents)[1], offsets)

    def _slot_sums(
        self, term: int, points: _Points, count: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The gradient of one term at one place of each row, summed over the place's tokens.

        Args:
            term: which.
            points: ``R`` rows with a slot each.
            count: words that every row has; a row with another number, because a word joins its
                neighbour in the model's tokens, gives zeros.

        Returns:
            ``(R, d)`` float32, and ``(R,)`` bool: which rows count.
        """
        loss, reader = self.problem.losses[term], self.problem.readers[term]
        sums, counted = [], []
        for begin in range(0, len(points.rows), _ROWS):
            part = points.part(begin, begin + _ROWS)
            assert part.slots is not None
            contents, offsets, first = self._cut(reader, part.rows)
            words = np.diff(first)
            whole = words > part.slots if count is None else words == count
            put = None
            if part.mean_word:
                mean = self.lexicon.of(loss.model).mean
                contents, offsets, put = _mean_word(contents, offsets, first, part.slots, mean)
            _, packed = embedding_gradient(loss, contents, put)
            places = torch.from_numpy(first[:-1] + np.minimum(part.slots, words - 1))
            kept = torch.from_numpy(whole).to(packed.device)
            own = _segment_sums(packed, offsets)[places.to(packed.device)]
            sums.append(own * kept[:, None])
            counted.append(kept)
        return torch.cat(sums), torch.cat(counted)

    def _cut(
        self, reader: Reader, rows: Ragged
    ) -> tuple[Ragged, NDArray[np.int64], NDArray[np.int64]]:
        """Rows in a model's tokens, where each word begins in them, and each row's first word."""
        reading = reader.read(rows)
        if reading.words is None:
            return reading.contents, *self.problem.words.offsets(rows)
        words = reading.words
        return reading.contents, words.target_word_offsets, words.word_row_offsets

    def _current(self, reader: Reader, places: Places) -> Tensor:
        """``(W, d)``: the mean embedding of each place's own tokens."""
        contents, offsets, _ = self._cut(reader, Ragged.from_lists([places.ids]))
        model = reader.model
        ids = torch.from_numpy(contents.values).to(model.device)
        sums = _segment_sums(model.embed(ids[None])[0].float(), offsets)
        counts = torch.from_numpy(np.maximum(np.diff(offsets), 1)).to(sums.device)
        vectors = sums / counts[:, None]
        if len(vectors) != len(places):
            return vectors.new_zeros(len(places), vectors.shape[1])
        return vectors


class AdaptedWords:
    """Words grouped by their token counts, ready to be scored through an adapter.

    A candidate with ``q`` target tokens receives the place's summed gradient, spread evenly over
    them; the pull-back of its own group carries it to its ``p`` source tokens, whose embeddings it
    meets.

    Args:
        reader: who has the adapter.
        source: ``N`` words in the source's tokens.
        target: the same in the model's.
    """

    def __init__(self, reader: Reader, source: Ragged, target: Ragged) -> None:
        reader.require_adapter()
        assert reader.adapter is not None
        self._adapter = reader.adapter
        self._size = len(source)
        table = reader.source.table()
        pairs = np.stack([source.lengths, target.lengths], axis=1)
        self._groups: list[tuple[int, int, Tensor, Tensor]] = []
        for p, q in np.unique(pairs, axis=0):
            rows = np.flatnonzero((pairs == (p, q)).all(axis=1))
            ids = torch.from_numpy(source.select(rows).padded()).to(table.device)
            flat = table[ids].float().flatten(1).to(self._adapter.device)
            index = torch.from_numpy(rows).to(self._adapter.device)
            self._groups.append((int(p), int(q), index, flat))

    def scores(self, sums: Tensor) -> Tensor:
        """Score all words: gradients ``(W, d_tgt)`` of places -> ``(W, N)``."""
        places = len(sums)
        out = sums.new_zeros(places, self._size)
        for p, q, index, flat in self._groups:
            layout = self._adapter.layout([p] * places, [q] * places)
            spread = (sums / q).repeat_interleave(q, dim=0)
            pulled = self._adapter.pull_back(spread, layout).reshape(places, -1)
            out[:, index] = pulled @ flat.T
        return out


def _segment_sums(packed: Tensor, offsets: NDArray[np.int64]) -> Tensor:
    """Sum packed rows ``(tokens, d)`` by segment -> ``(segments, d)``."""
    counts = np.diff(offsets)
    segment = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(packed.device)
    return packed.new_zeros(len(counts), packed.shape[1]).index_add_(0, segment, packed)


def _mean_word(
    contents: Ragged,
    offsets: NDArray[np.int64],
    first: NDArray[np.int64],
    slots: NDArray[np.int64] | None,
    mean: Tensor,
) -> tuple[Ragged, NDArray[np.int64], Put]:
    """Put one token in the place of a word in every row, and the mean word's vector on it."""
    assert slots is not None
    rows, positions, lengths = [], [], np.diff(offsets)
    starts = contents.offsets
    for row, slot in enumerate(slots):
        word = int(first[row] + min(slot, first[row + 1] - first[row] - 1))
        begin = int(offsets[word] - starts[row])
        end = int(offsets[word + 1] - starts[row])
        ids = contents[row].tolist()
        rows.append([*ids[:begin], ids[begin], *ids[end:]])
        positions.append(begin)
        lengths[word] = 1
    cut = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Ragged.from_lists(rows), cut, Put(np.array(positions, dtype=np.int64), mean)
