"""Edits of whole words: exchange, leave out, insert and swap words of a prompt.

Moves that keep every word in its place cannot mend an order or a missing detail. The insertions and
swaps that are tried are those a causal language model finds likely and the gradient helpful
(:mod:`fuse_index.optimize.word_merit`); of omissions and exchanges there are few, and all are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise, product
from typing import TYPE_CHECKING, ClassVar

from fuse_index.errors import OptionError
from fuse_index.optimize.anchors import AnchorOptions
from fuse_index.optimize.merit import require_causal
from fuse_index.optimize.methods.base import Context, Method, MethodOptions, Proposals, require
from fuse_index.optimize.methods.gcg import as_choice
from fuse_index.optimize.word_merit import Route, WordMerit
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.causal import CausalModel
    from fuse_index.optimize.state import State
    from fuse_index.optimize.word_points import Places

Words = list[list[int]]
"""A prompt, each word's tokens apart."""


@dataclass(frozen=True)
class WordEdits(AnchorOptions, MethodOptions):
    """Options of edits.

    A step makes all its edits of every prompt the search works on; a prompt of ``W`` words gives
    about ``W * (swaps + pairs ** 2 + insertions + omissions)`` candidates and up to ``W * W / 2``
    exchanges.

    Attributes:
        swaps: words tried in the place of each.
        pairs: words tried in each of two neighbouring places at once, all with all.
        insertions: words tried in each gap.
        omissions: neighbouring words left out at once, at most.
        exchanges: whether every two words change places, those that stand together apart.
        weight: nats that one standard deviation of the predicted change counts against the
            log-probability; 0 does without the gradient.
        route: how the gradient comes to the words.
    """

    swaps: int = 4
    pairs: int = 3
    insertions: int = 2
    omissions: int = 3
    exchanges: bool = True
    weight: float = 2.0
    route: Route = Route.WORD

    type: ClassVar[str] = "edit_words"

    def __post_init__(self) -> None:
        require(self, swaps=0, pairs=0, insertions=0, omissions=0, weight=0)
        object.__setattr__(self, "route", as_choice(self, "route", Route))
        self.check_anchors(own_only=True, swaps=False)
        if not (self.swaps or self.pairs or self.insertions or self.omissions or self.exchanges):
            raise OptionError("edit_words: no edits", expected="one kind of them at least")

    @property
    def follows_gradient(self) -> bool:
        """Whether swaps and insertions are judged by a gradient too."""
        return self.weight > 0 and bool(self.swaps or self.pairs or self.insertions)

    @property
    def needs_adapters(self) -> bool:
        """Whether the gradient comes through the adapters."""
        return self.follows_gradient and self.route in (Route.ADAPTER, Route.MIXTURE)

    @property
    def needs_layers(self) -> bool:
        """Whether words are met at their hidden states."""
        return self.follows_gradient and self.route is Route.LAYERS

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts.

        Raises:
            ModelError: the source is not a causal language model.
        """
        return _EditMethod(self, context, require_causal(context.problem.source, self.type))


class _EditMethod(Method):
    def __init__(self, options: WordEdits, context: Context, source: CausalModel) -> None:
        super().__init__(context)
        self.options = options
        self._merit = WordMerit(context, source, options.route, options.weight, options)

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        rows = [row for state in states for row in self._edited(self._merit.places(state.ids))]
        return Proposals(Ragged.from_lists(rows if most is None else rows[: max(most, 1)]))

    def _edited(self, places: Places) -> list[list[int]]:
        options = self.options
        words = [list(places.ids[a:b]) for a, b in pairwise(places.offsets.tolist())]
        edited: list[Words] = []
        if options.swaps or options.pairs:
            merits = self._merit.instead(places)
            edited += self._placed(words, merits, options.swaps, taken=1)
            edited += self._paired(words, merits)
        if options.insertions:
            edited += self._placed(words, self._merit.between(places), options.insertions, taken=0)
        edited += omissions(words, options.omissions)
        if options.exchanges:
            edited += exchanges(words)
        return [list(chain.from_iterable(own)) for own in edited]

    def _placed(self, words: Words, merits: Tensor, count: int, *, taken: int) -> list[Words]:
        """Put the best words in each place, instead of so many of those that stand there."""
        tokens = self._merit.lexicon.source
        best = merits.topk(min(count, merits.shape[1]), dim=1).indices.tolist()
        return [
            [*words[:at], tokens[word].tolist(), *words[at + taken :]]
            for at, own in enumerate(best)
            for word in own
        ]

    def _paired(self, words: Words, merits: Tensor) -> list[Words]:
        """Put the best words in two neighbouring places at once."""
        tokens, count = self._merit.lexicon.source, min(self.options.pairs, merits.shape[1])
        best = merits.topk(count, dim=1).indices.tolist()
        return [
            [*words[:at], tokens[first].tolist(), tokens[second].tolist(), *words[at + 2 :]]
            for at, (own, following) in enumerate(pairwise(best))
            for first, second in product(own, following)
        ]


def omissions(words: Words, most: int) -> list[Words]:
    """Leave out every run of one to ``most`` words, but never all."""
    return [
        [*words[:at], *words[at + size :]]
        for size in range(1, min(most, len(words) - 1) + 1)
        for at in range(len(words) - size + 1)
    ]


def exchanges(words: Words) -> list[Words]:
    """Let every two different words that do not stand together change places."""
    found = []
    for one, two in combinations(range(len(words)), 2):
        if two - one > 1 and words[one] != words[two]:
            changed = list(words)
            changed[one], changed[two] = words[two], words[one]
            found.append(changed)
    return found
