"""Greedy search: go on from the best prompt, or from the best of a buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fuse_index.optimize.search.base import Search, SearchOptions, at_least_one
from fuse_index.optimize.state import Scored, State


@dataclass(frozen=True)
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
    buffer: int = 1

    type: ClassVar[str] = "greedy"

    def __post_init__(self) -> None:
        at_least_one(self, "buffer")

    def start(self, states: Sequence[State]) -> Search:
        """Begin from scored prompts."""
        return _GreedySearch(self, states)


class _GreedySearch(Search):
    def __init__(self, options: Greedy, states: Sequence[State]) -> None:
        super().__init__(states)
        self._options = options
        self.frontier = self.frontier[: options.buffer]

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
