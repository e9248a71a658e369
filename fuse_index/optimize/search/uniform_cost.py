"""Uniform-cost (best-first) search: return to the best prompt not worked on yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fuse_index.optimize.search.base import Search, SearchOptions, at_least_one, merged
from fuse_index.optimize.state import Ids, Scored, State


@dataclass(frozen=True)
class UniformCost(SearchOptions):
    """Work on the best prompt that was not worked on before; with none left, on the best.

    Attributes:
        size: prompts kept; the worst are forgotten, so that memory stays bounded.
    """

    size: int = 64

    type: ClassVar[str] = "uniform_cost"

    def __post_init__(self) -> None:
        at_least_one(self, "size")

    def start(self, states: Sequence[State]) -> Search:
        """Begin from scored prompts."""
        return _UniformCostSearch(self, states)


class _UniformCostSearch(Search):
    def __init__(self, options: UniformCost, states: Sequence[State]) -> None:
        super().__init__(states)
        self._options = options
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
