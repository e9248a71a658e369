"""PEZ over whole words: a soft prompt has a point for each word, and projects to words.

"Hard Prompts Made Easy" (Wen et al. 2023), with words in the place of tokens: what a point projects
to is the nearest word, all of whose tokens change at once in every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fuse_index.errors import OptionError
from fuse_index.objectives.labels import label_space
from fuse_index.optimize.anchors import AnchorDrawer
from fuse_index.optimize.methods.base import Context, Method, Proposals, require
from fuse_index.optimize.methods.gcg import as_choice
from fuse_index.optimize.methods.pez import DescentOptions, SoftDescent, SoftSpace
from fuse_index.optimize.reader import Reader
from fuse_index.optimize.word_gradient import Expansion, WordDifferentiator
from fuse_index.optimize.word_merit import Route
from fuse_index.optimize.word_search import INDEX_FROM, find_index
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.optimize.state import Ids, State
    from fuse_index.optimize.word_points import PlaceGradient

_ROWS = 8192
"""Words compared at once."""


@dataclass(frozen=True)
class WordPEZ(DescentOptions):
    """Options of PEZ over words.

    As PEZ, but a soft prompt has a point for each word of an initial prompt.

    Attributes:
        route: ``word``: the points live in the embeddings of every model with a gradient, side by
            side; ``adapter``: in those of the source, and gradients come through the adapters;
            ``mixture``: soft prompts of both kinds; not ``layers``.
        index_from: with so many words or more, the nearest is asked of the index that the adapter's
            bundle has over the one model the points live in; else it is compared with all.
    """

    route: Route = Route.WORD
    index_from: int = INDEX_FROM

    type: ClassVar[str] = "soft_words"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "route", as_choice(self, "route", Route))
        if self.route is Route.LAYERS:
            raise OptionError(
                f"{self.type}: route 'layers'",
                expected="word, adapter or mixture: its points live among embeddings",
            )
        require(self, index_from=0)

    @property
    def needs_adapters(self) -> bool:
        """Whether the gradient comes through the adapters."""
        return self.route is not Route.WORD

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts."""
        mixture = self.route is Route.MIXTURE
        routes = (Route.WORD, Route.ADAPTER) if mixture else (self.route,)
        prompts = [state.ids for state in states]
        parts = [
            SoftDescent(self, context, WordSpace(self, context, route), list(prompts))
            for route in routes
        ]
        return parts[0] if len(parts) == 1 else _Together(context, parts)


class WordSpace(SoftSpace):
    """The mean embeddings of words, in one model or several side by side; a point a word.

    Args:
        options: of the method.
        context: of the run.
        route: in which models.
    """

    def __init__(self, options: WordPEZ, context: Context, route: Route) -> None:
        problem = context.problem
        self.unit = 1.0
        self._options, self._context = options, context
        self._lexicon = problem.lexicon
        self.units = len(self._lexicon)
        self._words = WordDifferentiator(context.gradients, self._lexicon)
        self._anchors = AnchorDrawer(options, context, self._lexicon.source)
        self._device = problem.source.device
        found = {id(problem.readers[i]): problem.readers[i] for i in context.gradients.terms}
        self._taken = list(found.values())
        self._through = route is Route.ADAPTER
        self._readers = [_source_reader(context)] if self._through else self._taken
        vectors = [self._lexicon.of(reader.model).vectors for reader in self._readers]
        scales = [float(own.square().mean().sqrt()) if options.relative else 1.0 for own in vectors]
        self._parts = list(zip(vectors, scales, strict=True))
        norms = [own.square().sum(dim=1).to(self._device) / s**2 for own, s in self._parts]
        self._norms: Tensor = torch.stack(norms).sum(dim=0).sqrt()
        self._index = None
        if len(self._readers) == 1:
            least = options.index_from
            self._index = find_index(self._lexicon, self._readers, least=least, alone=True)

    def begin(self, ids: Ids) -> Tensor:
        """Return the points of a prompt's words."""
        places = self._words.places(ids)
        return self._joined([self._words.vectors_of(own, places) for own in self._readers])

    def drawn(self, places: int, generator: torch.Generator) -> Tensor:
        """Return the points of random words."""
        draw = torch.randint(0, self.units, (places,), generator=generator)
        return self._joined([own[draw.to(own.device)] for own, _ in self._parts])

    def nearest(self, points: Tensor) -> Tensor:
        """Project points to the nearest words by cosine."""
        if self._index is not None:
            return self._index.nearest(points)
        best = torch.full((len(points),), -torch.inf, device=points.device)
        found = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        for begin in range(0, self.units, _ROWS):
            norms = self._norms[begin : begin + _ROWS]
            scores, first = torch.zeros(len(points), len(norms), device=points.device), 0
            for own, scale in self._parts:
                rows = own[begin : begin + _ROWS].to(points.device)
                scores += points[:, first : first + rows.shape[1]] @ (rows / scale).T
                first += rows.shape[1]
            scores /= norms.clamp(min=torch.finfo(torch.float32).tiny)
            values, indices = scores.max(dim=1)
            found = torch.where(values > best, indices + begin, found)
            best = torch.maximum(values, best)
        return found.cpu()

    def prompt(self, units: Sequence[int]) -> list[int]:
        """Return the words' tokens."""
        return [token for unit in units for token in self._lexicon.source[unit].tolist()]

    def gradients(self, units: Sequence[Sequence[int]]) -> Tensor:
        """Return gradients at the words, or averaged over their anchors."""
        found = [self._gradient(own) for own in units]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)

    def _gradient(self, units: Sequence[int]) -> Tensor:
        """``(W, d)``, in the unit of the points; zeros where words join in the source's tokens."""
        places = self._words.places(tuple(self.prompt(units)))
        width = sum(own.shape[1] for own, _ in self._parts)
        if len(places) != len(units):
            return torch.zeros(len(units), width, device=self._device)
        anchors, expansion = None, Expansion.CURRENT
        if self._options.anchors:
            expansion = Expansion.ANCHORS
            anchors = self._anchors.draw(places.ids, places.offsets, range(len(units)))
        taken = self._words.at(places, self._context.weights, expansion=expansion, anchors=anchors)
        if self._through:
            pulled = [self._pulled(own, units).to(self._device) for own in taken]
            parts = [torch.stack(pulled).sum(dim=0)]
        else:
            by_reader = {id(own.reader): own.sums for own in taken}
            parts = [
                by_reader.get(id(reader), own.new_zeros(len(units), own.shape[1]))
                for reader, (own, _) in zip(self._readers, self._parts, strict=True)
            ]
        scaled = [own.to(self._device) * s for own, (_, s) in zip(parts, self._parts, strict=True)]
        return torch.cat(scaled, dim=1)

    def _pulled(self, own: PlaceGradient, units: Sequence[int]) -> Tensor:
        """``(W, d_src)``: a model's gradient, spread over each word's tokens and pulled back."""
        reader = own.reader
        if reader.is_source:
            return own.sums
        if reader.same_tokens:  # the source's gradient that fits the tokens' best
            scores = own.sums @ reader.model.table().float().T
            return label_space(reader.source).gradient(scores[None])[0]
        source, target = self._lexicon.source, self._lexicon.of(reader.model).tokens
        assert reader.adapter is not None
        p, q = source.lengths[list(units)], target.lengths[list(units)]
        repeats = torch.from_numpy(q).to(own.sums.device)
        spread = (own.sums / repeats[:, None]).repeat_interleave(repeats, dim=0)
        pulled = reader.adapter.pull_back(spread, reader.adapter.layout(p, q))
        place = torch.repeat_interleave(
            torch.arange(len(p), device=pulled.device), torch.from_numpy(p).to(pulled.device)
        )
        return pulled.new_zeros(len(p), pulled.shape[1]).index_add_(0, place, pulled)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Put the parts of points side by side, each in its unit."""
        scaled = [
            own.float().to(self._device) / scale
            for own, (_, scale) in zip(parts, self._parts, strict=True)
        ]
        return torch.cat(scaled, dim=1)


class _Together(Method):
    """Several descents whose proposals are scored together."""

    def __init__(self, context: Context, parts: Sequence[Method]) -> None:
        super().__init__(context)
        self._parts = parts

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        found = [part.propose(states, most) for part in self._parts]
        return Proposals(Ragged.concatenate([own.prompts for own in found if own is not None]))

    def tensors(self) -> dict[str, Tensor]:
        parts = [(i, part.tensors()) for i, part in enumerate(self._parts)]
        return {f"{i}.{name}": value for i, own in parts for name, value in own.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for i, part in enumerate(self._parts):
            prefix = f"{i}."
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            part.load_tensors(own)


def _source_reader(context: Context) -> Reader:
    """The reader of the source itself."""
    problem = context.problem
    own = (reader for reader in problem.readers if reader.is_source)
    return next(own, None) or Reader(problem.source, problem.source)
