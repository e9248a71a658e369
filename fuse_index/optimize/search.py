"""Searches: which prompts are kept, and which of them a method works on next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

from fuse_index.common.options import Width, options
from fuse_index.optimize.state import Ids, Scored, State


@options()
class SearchOptions(ABC):
    """Options of a search; a subclass a search."""

    type: ClassVar[str] = ""
    """Name in files and on the command line."""

    @abstractmethod
    def start(self, states: Sequence[State]) -> Search[Any]:
        """Begin a search from scored prompts."""

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON object with the type name."""
        return {"type": self.type, **{f.name: getattr(self, f.name) for f in fields(self)}}


Options = TypeVar("Options", bound=SearchOptions)


class Search(ABC, Generic[Options]):
    """Keeps a frontier of prompts, best first.

    Args:
        options: of the search.
        states: scored prompts.
        size: how many are kept at first.
    """

    def __init__(self, options: Options, states: Iterable[State], size: int | None = None) -> None:
        self._options = options
        self.frontier = distinct(sorted(states, key=lambda state: state.total))[:size]

    @abstractmethod
    def select(self) -> list[State]:
        """Return the prompts whose candidates are wanted next."""

    @abstractmethod
    def update(self, scored: Scored, *, grown: bool = False) -> None:
        """Keep what is best of a step's candidates.

        Args:
            scored: the candidates.
            grown: whether they are longer than the prompts they come from, which then make way.
        """

    def replace(self, states: Iterable[State]) -> None:
        """Keep the same prompts with other losses, because the items that count have changed."""
        self.frontier = sorted(states, key=lambda state: state.total)

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"frontier": [vars(state) for state in self.frontier]}

    def load_json(self, value: dict[str, Any]) -> None:
        """Continue from what :meth:`to_json` returned."""
        self.frontier = [State.from_json(item) for item in value["frontier"]]


def distinct(states: Iterable[State]) -> list[State]:
    """Drop prompts that came before."""
    return list({state.ids: state for state in reversed(list(states))}.values())[::-1]


def merged(kept: Iterable[State], scored: Scored, size: int) -> list[State]:
    """Return the ``size`` best of kept prompts and candidates, best first."""
    states = [*kept, *islice(scored.best(), size)]
    return distinct(sorted(states, key=lambda state: state.total))[:size]


@options()
class Greedy(SearchOptions):
    """Work on the best prompt kept.

    Attributes:
        keep_current: whether the current prompt is a candidate too, so that no step makes it worse.
            Without it (and a buffer of 1) the best candidate replaces it in any case, as in GCG
            (Zou et al. 2023).
        buffer: prompts kept; a step's best candidate that is not among them replaces the worst of
            them if it is better (nanoGCG's ``buffer_size``).
    """

    keep_current: bool = True
    buffer: Width = 1

    type: ClassVar[str] = "greedy"

    def start(self, states: Sequence[State]) -> Search[Any]:
        """Begin a search from scored prompts."""
        return _GreedySearch(self, states, self.buffer)


class _GreedySearch(Search[Greedy]):
    def select(self) -> list[State]:
        return self.frontier[:1]

    def update(self, scored: Scored, *, grown: bool = False) -> None:
        best = next(scored.best(), None)
        if best is None:
            return
        options = self._options
        if grown or (options.buffer == 1 and not options.keep_current):
            self.frontier = [best]
            return
        held = {state.ids for state in self.frontier}
        best = next((state for state in scored.best() if state.ids not in held), None)
        full = len(self.frontier) >= options.buffer
        if best is None or (full and best.total >= self.frontier[-1].total):
            return
        kept = self.frontier[:-1] if full else self.frontier
        self.frontier = sorted([*kept, best], key=lambda state: state.total)


@options()
class Beam(SearchOptions):
    """Keep the best ``width`` prompts and work on all of them.

    Attributes:
        width: prompts kept.
        keep_current: whether they compete with their candidates.
    """

    width: Width = 4
    keep_current: bool = True

    type: ClassVar[str] = "beam"

    def start(self, states: Sequence[State]) -> Search[Any]:
        """Begin a search from scored prompts."""
        return _BeamSearch(self, states, self.width)


class _BeamSearch(Search[Beam]):
    def select(self) -> list[State]:
        return list(self.frontier)

    def update(self, scored: Scored, *, grown: bool = False) -> None:
        kept = [] if grown or not self._options.keep_current else self.frontier
        self.frontier = merged(kept, scored, self._options.width) or self.frontier


@options()
class UniformCost(SearchOptions):
    """Work on the best prompt that was not worked on before; with none left, on the best.

    Attributes:
        size: prompts kept; the worst are forgotten, so that memory stays bounded.
    """

    size: Width = 64

    type: ClassVar[str] = "uniform_cost"

    def start(self, states: Sequence[State]) -> Search[Any]:
        """Begin a search from scored prompts."""
        return _UniformCostSearch(self, states)


class _UniformCostSearch(Search[UniformCost]):
    def __init__(self, options: UniformCost, states: Sequence[State]) -> None:
        super().__init__(options, states)
        self._expanded: set[Ids] = set()

    def select(self) -> list[State]:
        fresh = (state for state in self.frontier if state.ids not in self._expanded)
        chosen = next(fresh, self.frontier[0])
        self._expanded.add(chosen.ids)
        return [chosen]

    def update(self, scored: Scored, *, grown: bool = False) -> None:
        kept = self.frontier
        if grown:
            kept = [state for state in kept if state.ids not in self._expanded]
        self.frontier = merged(kept, scored, self._options.size) or self.frontier
        self._expanded &= {state.ids for state in self.frontier}

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"expanded": sorted(map(list, self._expanded))}

    def load_json(self, value: dict[str, Any]) -> None:
        super().load_json(value)
        self._expanded = {tuple(map(int, ids)) for ids in value["expanded"]}


SEARCHES: dict[str, type[SearchOptions]] = {made.type: made for made in (Greedy, Beam, UniformCost)}
"""Every search by its name in files and on the command line."""
