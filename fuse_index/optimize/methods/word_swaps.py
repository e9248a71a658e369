"""Word-level moves: a position is a word, and all its tokens are replaced at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from fuse_index.errors import OptionError
from fuse_index.optimize.anchors import AnchorDrawer, AnchorOptions
from fuse_index.optimize.hindsight import Hindsight
from fuse_index.optimize.lexicon import replace_words
from fuse_index.optimize.methods.base import (
    Context,
    Method,
    MethodOptions,
    Proposals,
    require,
    shares,
)
from fuse_index.optimize.methods.gcg import Draw, as_choice, random_places, sample_ranks
from fuse_index.optimize.state import State
from fuse_index.optimize.word_gradient import Expansion, WordDifferentiator, best_words
from fuse_index.optimize.word_points import PlaceGradient, Places
from fuse_index.optimize.word_search import INDEX_FROM
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor


_SPARE = 4
"""Ranked words looked at for every candidate, so that those scored before can be left out."""


class Guide(str, Enum):
    """What ranks the words."""

    WORD = "word"
    """The gradient in word space."""
    LAYERS = "layers"
    """The gradients at the word's hidden states in every layer (docs/mathematics.md); one gradient
    a place, and once for every model some forward passes a word."""
    ADAPTER = "adapter"
    """The gradient pulled back through the adapters."""
    MIXTURE = "mixture"
    """Half of the candidates by each."""
    RANDOM = "random"
    """Nothing: any word in any place."""


@dataclass(frozen=True)
class WordSwaps(AnchorOptions, MethodOptions):
    """Options of coordinate descent over whole words.

    Attributes:
        search_width: candidates of one step, over all prompts the search works on.
        top_k: words of each place that swaps are drawn from.
        n_replace: words swapped in each candidate.
        guide: what ranks the words.
        expansion: where the gradient is taken.
        anchors: of the expansion ``anchors``; a place with ``anchor_places`` "own", a prompt with
            "all".
        draw: how swaps are drawn from the ranking.
        places: places of the prompt that a step works on, drawn at random; None takes all. With
            ``draw`` "best", every place gets an equal share of the candidates.
        index_from: with so many words or more, and the guide ``word``, the best are asked of the
            index that the adapter's bundle has, if it covers the models; else all are scored.
    """

    search_width: int = 64
    top_k: int = 64
    n_replace: int = 1
    guide: Guide = Guide.WORD
    expansion: Expansion = Expansion.CURRENT
    anchors: int = 4
    draw: Draw = Draw.UNIFORM
    places: int | None = None
    index_from: int = INDEX_FROM

    type: ClassVar[str] = "words"

    def __post_init__(self) -> None:
        require(self, search_width=1, top_k=1, n_replace=1, anchors=1, index_from=0)
        for name, choices in (("guide", Guide), ("expansion", Expansion), ("draw", Draw)):
            object.__setattr__(self, name, as_choice(self, name, choices))
        self.check_anchors()
        if self.places is not None:
            require(self, places=1)
        if self.guide is Guide.LAYERS and not self.anchor_places.own:
            raise OptionError(
                "words: guide 'layers' with anchor_places 'all'",
                expected="anchor_places 'own': a word's own path is cut in one place",
            )
        if self.draw is Draw.BEST and self.n_replace != 1:
            raise OptionError(f"words: draw 'best' with n_replace={self.n_replace}", expected="1")

    @property
    def follows_gradient(self) -> bool:
        """Whether the words are ranked by a gradient."""
        return self.guide is not Guide.RANDOM

    @property
    def needs_adapters(self) -> bool:
        """Whether some words are ranked through the adapters."""
        return self.guide in (Guide.ADAPTER, Guide.MIXTURE)

    @property
    def needs_layers(self) -> bool:
        """Whether words are met at their hidden states."""
        return self.guide is Guide.LAYERS

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts."""
        return _WordMethod(self, context)


class _WordMethod(Method):
    def __init__(self, options: WordSwaps, context: Context) -> None:
        super().__init__(context)
        self.options = options
        self.lexicon = context.problem.lexicon
        self._words = WordDifferentiator(
            context.gradients,
            self.lexicon,
            index_from=options.index_from,
            layers=options.guide is Guide.LAYERS,
        )
        learns = options.from_scored and options.expansion is Expansion.ANCHORS
        self._hindsight = Hindsight(context, options.anchors) if learns else None
        self._total = 0.0
        """Of the prompt that candidates are made from."""
        self._anchors = AnchorDrawer(options, context, self.lexicon.source)

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        options = self.options
        width = options.search_width if most is None else min(options.search_width, max(most, 1))
        rows: list[list[int]] = []
        if self._hindsight is not None:
            self._hindsight.learn(states[0].ids)
        for state, count in zip(states, shares(width, len(states)), strict=True):
            places = self._words.places(state.ids)
            self._total = state.total
            rows += self._candidates(places, count)
        return Proposals(Ragged.from_lists(rows))

    def _candidates(self, places: Places, count: int) -> list[list[int]]:
        options, words = self.options, self._words
        slots = random_places(len(places), options.places, self.context)
        if not options.follows_gradient:
            every = torch.arange(len(self.lexicon)).expand(len(slots), -1)
            return self._drawn(places, slots, every, count)
        anchors, expansion = None, options.expansion
        if self._hindsight is not None:
            expansion = Expansion.CURRENT
        elif expansion is Expansion.ANCHORS:
            anchors = self._anchors.draw(places.ids, places.offsets, slots)
        taken = words.at(
            places,
            self.context.weights,
            slots=slots,
            expansion=expansion,
            anchors=anchors,
            average=options.anchor_average,
        )
        rows = []
        rankings = self._rankings()
        for ranking, part in zip(rankings, shares(count, len(rankings)), strict=True):
            if options.draw is Draw.BEST:
                numbers = shares(part, len(slots))
                ranked = self._ranked(ranking, taken, slots, _SPARE * max(numbers))
                for slot, own, some in zip(slots, ranked, numbers, strict=True):
                    rows += self._best(places, slot, own[: _SPARE * some], some)
            else:
                ranked = self._ranked(ranking, taken, slots, options.top_k)
                rows += self._drawn(places, slots, ranked, part)
        return rows

    def _ranked(
        self, ranking: Guide, taken: list[PlaceGradient], slots: list[int], count: int
    ) -> Tensor:
        """``(S, count)``: the words with the best predicted change in each place."""
        words = self._words
        adapted = ranking is Guide.ADAPTER
        if not adapted and self._hindsight is None:
            return words.top(taken, count)
        of = words.through_adapter if adapted else words.in_word_space
        change = of(taken)
        if self._hindsight is not None:
            vectors = [words.vectors(own.reader.model) for own in taken]
            pairs = zip(slots, change, strict=True)
            change = torch.stack([self._hindsight.correct(s, own, vectors) for s, own in pairs])
        return best_words(change, count)

    def _rankings(self) -> tuple[Guide, ...]:
        mixture = self.options.guide is Guide.MIXTURE
        return (Guide.WORD, Guide.ADAPTER) if mixture else (self.options.guide,)

    def _drawn(self, places: Places, slots: list[int], top: Tensor, count: int) -> list[list[int]]:
        """Draw places and, for each, one of its words ``(S, k)``, uniformly."""
        drawn, words = sample_ranks(top, count, self.options.n_replace, self.context.generator)
        own = torch.tensor(slots)[drawn]
        return self._rows(places, own.tolist(), words.tolist())

    def _best(self, places: Places, slot: int, ranked: Tensor, count: int) -> list[list[int]]:
        """The first ``count`` of ranked words in one place that are new."""
        words = ranked.tolist()
        rows = self._rows(places, [[slot]] * len(words), [[word] for word in words])
        new = np.flatnonzero(self.context.is_new(Ragged.from_lists(rows)))[:count]
        return [rows[i] for i in new] if len(new) else rows[:count]

    def _rows(
        self, places: Places, slots: list[list[int]], words: list[list[int]]
    ) -> list[list[int]]:
        tokens = self.lexicon.source
        rows = [
            replace_words(places.ids, places.offsets, own, [tokens[word].tolist() for word in new])
            for own, new in zip(slots, words, strict=True)
        ]
        if self._hindsight is not None:
            for row, own, new in zip(rows, slots, words, strict=True):
                if len(own) == 1:
                    self._hindsight.note(row, own[0], new[0], self._total)
        return rows

    def tensors(self) -> dict[str, Tensor]:
        return {} if self._hindsight is None else self._hindsight.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        if self._hindsight is not None:
            self._hindsight.load_tensors(tensors)
