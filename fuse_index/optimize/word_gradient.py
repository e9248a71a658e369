"""First-order predictions for whole words, in word space and through the adapter.

For a word in one place of a prompt, the change of a loss is predicted by the summed gradient of the
place's tokens times the mean embedding of the candidate's tokens (*word space*; needs no adapter),
or by that gradient pulled back to the candidate's source tokens through the adapter of its own
group. A gradient taken at the current word predicts far-away words poorly; taken at *anchors* in
the place (the mean word, or random words) it does far better (docs/mathematics.md).
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.optimize.adapted_words import AdaptedWords
from fuse_index.optimize.anchored import likeness, weighted
from fuse_index.optimize.anchors import AnchorAverage
from fuse_index.optimize.gradient import embedding_gradient, rows_within
from fuse_index.optimize.layer_gradient import layer_gradient
from fuse_index.optimize.word_points import (
    PlaceGradient,
    Places,
    PointGradients,
    Points,
    Spread,
    segment_sums,
    with_mean_word,
)
from fuse_index.optimize.word_search import INDEX_FROM, IndexedWords, find_index
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.optimize.anchors import Anchored
    from fuse_index.optimize.gradient import Differentiator
    from fuse_index.optimize.lexicon import Lexicon
    from fuse_index.optimize.reader import Reader
    from fuse_index.optimize.state import Ids, Losses


class Expansion(str, Enum):
    """Where the gradient is taken that a prediction starts from."""

    CURRENT = "current"
    """At the prompt itself: one gradient for all places."""
    MEAN_WORD = "mean_word"
    """With the mean embedding of all words in the place: one gradient a place."""
    ANCHORS = "anchors"
    """With other words in the place, averaged (:mod:`fuse_index.optimize.anchors`)."""


class WordDifferentiator:
    """Predicts the change of a problem's total loss for whole words.

    Args:
        gradients: of the problem.
        lexicon: the words.
        index_from: words from which on :meth:`top` asks a bundle's index, if there is one.
        layers: whether words are met by gradients at their hidden states in every layer, and not
            at their embeddings alone. Every place then has gradients of its own.
    """

    def __init__(
        self,
        gradients: Differentiator,
        lexicon: Lexicon,
        *,
        index_from: int = INDEX_FROM,
        layers: bool = False,
    ) -> None:
        self.gradients = gradients
        self.problem = gradients.problem
        self.lexicon = lexicon
        self._index_from = index_from
        self._layers = layers
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
        anchors: Anchored | None = None,
        average: AnchorAverage = AnchorAverage.PLAIN,
    ) -> list[PlaceGradient]:
        """Take the gradient at places of a prompt.

        Args:
            places: the prompt.
            weights: ``(terms,)``.
            slots: ``S`` of its ``W`` words; all by default.
            expansion: where it is taken.
            anchors: of these places, for :attr:`Expansion.ANCHORS`.
            average: how the predictions from anchors of one place are put together.

        Returns:
            One gradient a model, the terms of a model summed.
        """
        wanted = list(range(len(places)) if slots is None else slots)
        count = len(places)
        if expansion is Expansion.MEAN_WORD:
            rows = Ragged.from_lists([places.ids] * len(wanted))
            points = Points(rows, np.array(wanted), mean_word=True)
            found = self._averaged(self._points(points, weights, count), 1)
        elif expansion is Expansion.CURRENT and self._layers:
            points = Points(Ragged.from_lists([places.ids] * len(wanted)), np.array(wanted))
            found = self._averaged(self._points(points, weights, count), 1)
        elif expansion is Expansion.CURRENT:
            found = self._everywhere(Ragged.from_lists([places.ids]), weights, count, wanted)
        else:
            assert anchors is not None
            if anchors.slots is None:
                found = self._everywhere(anchors.rows, weights, count, wanted)
            else:
                found = self.at_anchors(anchors, weights, average, count=count)
        if self._layers:
            return found
        return [replace(own, current=self.vectors_of(own.reader, places)[wanted]) for own in found]

    def at_anchors(
        self,
        anchors: Anchored,
        weights: Losses,
        average: AnchorAverage = AnchorAverage.PLAIN,
        *,
        count: int | None = None,
    ) -> list[PlaceGradient]:
        """Take the gradient with anchors in one place of each of several prompts.

        Args:
            anchors: ``R = S * A`` rows with a place each, those of the first place first.
            weights: ``(terms,)``.
            average: how the predictions from the anchors of a place are put together.
            count: words that every prompt has, if it is the same number.

        Returns:
            One gradient a model; ``current`` is zero.
        """
        assert anchors.slots is not None
        assert anchors.units is not None
        each = anchors.each
        found = self._points(Points(anchors.rows, anchors.slots), weights, count)
        if average is AnchorAverage.PLAIN:
            return self._averaged(found, each)
        words = torch.from_numpy(anchors.units).reshape(-1, each)
        pairs = zip(self._averaged(found, each), found, strict=True)
        return [replace(own, spread=Spread(points, words)) for own, points in pairs]

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
        points = Points(prompts, slots, mean_word=True)
        return self._averaged(self._points(points, weights, None), 1)

    def _averaged(self, found: list[PointGradients], each: int) -> list[PlaceGradient]:
        """Average over the ``each`` rows of every place; ``current`` is zero."""
        means = []
        for own in found:
            sums = own.sums.reshape(-1, each, own.sums.shape[1]).sum(dim=1)
            counted = own.counted.reshape(-1, each).sum(dim=1)
            means.append(sums / counted.clamp(min=1)[:, None])
        return [
            PlaceGradient(own.reader, mean, torch.zeros_like(mean))
            for own, mean in zip(found, means, strict=True)
        ]

    def in_word_space(self, gradients: list[PlaceGradient]) -> Tensor:
        """Return the predicted change for every word in every place, in word space.

        Returns:
            ``(S, N)`` float32 on the source's device; lower is better.
        """
        device = self.problem.source.device
        total: Tensor | None = None
        for own in gradients:
            change = self._scores(own, self._word_scores(own.reader))
            change = change - (own.sums * own.current).sum(dim=1, keepdim=True)
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
                change = self._scores(own, self._adapter_words(own.reader).scores)
            total = change.to(device) if total is None else total + change.to(device)
        assert total is not None
        return total

    @cached_property
    def index(self) -> IndexedWords | None:
        """A bundle's index over all models with a gradient, where words are many."""
        readers = [self.problem.readers[term] for term in self.gradients.terms]
        return find_index(self.lexicon, readers, least=self._index_from)

    def top(self, gradients: list[PlaceGradient], count: int) -> Tensor:
        """Return the words with the best predicted change in every place, in word space.

        The index answers for all models in one search, where there is one; else all words are
        scored.

        Args:
            gradients: of ``S`` places.
            count: words a place.

        Returns:
            ``(S, min(count, N))`` int64 on the CPU, the best first.
        """
        spread = any(own.spread is not None for own in gradients)
        if self._layers or spread or self.index is None:
            return best_words(self.in_word_space(gradients), count)
        named = {"source" if own.reader.is_source else "target": own.sums for own in gradients}
        return self.index.top(named, count)

    def vectors(self, model: Model) -> Tensor:
        """Return what the words' gradients in a model are multiplied with: ``(N, d)`` float32."""
        return self.lexicon.layers_of(model) if self._layers else self.lexicon.of(model).vectors

    def _adapter_words(self, reader: Reader) -> AdaptedWords:
        if id(reader) not in self._adapted:
            target = self.lexicon.of(reader.model).tokens
            self._adapted[id(reader)] = AdaptedWords(reader, self.lexicon.source, target)
        return self._adapted[id(reader)]

    def _word_scores(self, reader: Reader) -> Callable[[Tensor], Tensor]:
        vectors = self.vectors(reader.model)
        return lambda sums: sums @ vectors.T

    def _scores(self, own: PlaceGradient, score: Callable[[Tensor], Tensor]) -> Tensor:
        """``(S, N)`` from gradients ``(n, d)`` -> ``(n, N)``, with the anchors put together."""
        if own.spread is None:
            return score(own.sums)
        points, words = own.spread.points, own.spread.words.to(own.sums.device)
        vectors = self.vectors(own.reader.model)
        rows = []
        for place, here in enumerate(words):
            part = slice(place * len(here), (place + 1) * len(here))
            values = score(points.sums[part])
            alike = likeness(vectors, vectors[here])
            at_itself = values.gather(1, here[:, None])[:, 0]
            losses, counted = points.losses[part], points.counted[part]
            rows.append(weighted(values, losses, at_itself, alike, counted))
        return torch.stack(rows)

    def _everywhere(
        self, rows: Ragged, weights: Losses, count: int, wanted: list[int]
    ) -> list[PlaceGradient]:
        """The gradient at all ``count`` words of prompts, averaged over those that have as many."""
        spent = self.gradients.spent
        spent.gradients += len(rows)
        sums: dict[int, Tensor] = {}
        readers: dict[int, Reader] = {}
        for term, weight in self._weighed(weights):
            loss, reader = self.problem.losses[term], self.problem.readers[term]
            total = torch.zeros(count, loss.model.width, device=loss.model.device)
            taken = 0
            run = partial(self._row_sums, term, rows, count)
            for _, (part, number) in self.gradients.rows.map(len(rows), run):
                total, taken = total + part, taken + number
            mean = weight * total / max(taken, 1)
            readers[id(reader)] = reader
            sums[id(reader)] = sums[id(reader)] + mean if id(reader) in sums else mean
        return [
            PlaceGradient(readers[key], own[wanted], torch.zeros_like(own[wanted]))
            for key, own in sums.items()
        ]

    def _row_sums(self, term: int, rows: Ragged, count: int, run: slice) -> tuple[Tensor, int]:
        """``(count, d)``: the gradient of one term summed over some rows, and how many counted."""
        loss, reader = self.problem.losses[term], self.problem.readers[term]
        contents, offsets, first = self._cut(reader, rows_within(rows, run))
        sums = segment_sums(embedding_gradient(loss, contents)[1], offsets)
        whole = np.flatnonzero(np.diff(first) == count)
        index = torch.from_numpy(first[whole][:, None] + np.arange(count)).to(sums.device)
        return sums[index].sum(dim=0), len(whole)

    def _weighed(self, weights: Losses) -> list[tuple[int, float]]:
        return [(term, float(weights[term])) for term in self.gradients.terms if weights[term]]

    def _points(self, points: Points, weights: Losses, count: int | None) -> list[PointGradients]:
        """Take the gradients at points, those of the terms of one model summed."""
        self.gradients.spent.gradients += len(points.rows)
        found: dict[int, PointGradients] = {}
        for term, weight in self._weighed(weights):
            run = partial(self._slot_sums, term, points, count)
            taken = self.gradients.rows.map(len(points.rows), run)
            sums, counted, losses = map(torch.cat, zip(*(part for _, part in taken), strict=True))
            sums, losses = weight * sums, weight * losses
            reader = self.problem.readers[term]
            if (known := found.get(id(reader))) is not None:
                sums, losses = known.sums + sums, known.losses + losses
            found[id(reader)] = PointGradients(reader, sums, counted, losses)
        return list(found.values())

    def _slot_sums(
        self, term: int, points: Points, count: int | None, run: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of one term at one place of each row, summed over the place's tokens.

        Args:
            term: which.
            points: rows with a slot each.
            count: words that every row has; a row with another number, because a word joins its
                neighbour in the model's tokens, does not count.
            run: ``R`` of the rows.

        Returns:
            ``(R, d)`` float32; ``(R,)`` bool: which rows count; ``(R,)`` losses.
        """
        part, loss, reader = points.part(run), self.problem.losses[term], self.problem.readers[term]
        contents, offsets, first = self._cut(reader, part.rows)
        words = np.diff(first)
        whole = words > part.slots if count is None else words == count
        put = None
        if part.mean_word:
            mean = self.lexicon.of(loss.model).mean
            contents, offsets, put = with_mean_word(contents, offsets, first, part.slots, mean)
        places = first[:-1] + np.minimum(part.slots, words - 1)
        if self._layers:
            ends = np.stack([offsets[places], offsets[places + 1]], axis=1)
            losses, own = layer_gradient(loss, contents, ends - contents.offsets[:-1, None], put)
        else:
            losses, packed = embedding_gradient(loss, contents, put)
            own = segment_sums(packed, offsets)[torch.from_numpy(places).to(packed.device)]
        kept = torch.from_numpy(whole).to(own.device)
        return own * kept[:, None], kept, losses.float()

    def _cut(
        self, reader: Reader, rows: Ragged
    ) -> tuple[Ragged, NDArray[np.int64], NDArray[np.int64]]:
        """Rows in a model's tokens, where each word begins in them, and each row's first word."""
        reading = reader.read(rows)
        if reading.words is None:
            return reading.contents, *self.problem.words.offsets(rows)
        words = reading.words
        return reading.contents, words.target_word_offsets, words.word_row_offsets

    def vectors_of(self, reader: Reader, places: Places) -> Tensor:
        """Return the mean embedding of each place's own tokens in a model: ``(W, d)`` float32."""
        contents, offsets, _ = self._cut(reader, Ragged.from_lists([places.ids]))
        model = reader.model
        ids = torch.from_numpy(contents.values).to(model.device)
        sums = segment_sums(model.embed(ids[None])[0].float(), offsets)
        counts = torch.from_numpy(np.maximum(np.diff(offsets), 1)).to(sums.device)
        vectors = sums / counts[:, None]
        if len(vectors) != len(places):
            return vectors.new_zeros(len(places), vectors.shape[1])
        return vectors


def best_words(change: Tensor, count: int) -> Tensor:
    """Return the words with the lowest predictions ``(S, N)``: ``(S, min(count, N))``, CPU."""
    return (-change).topk(min(count, change.shape[1]), dim=1).indices.cpu()
