"""Beam search: work on several prompts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fuse_index.optimize.search.base import Search, SearchOptions, at_least_one, merged
from fuse_index.optimize.state import Scored, State


@dataclass(frozen=True)
class Beam(SearchOptions):
    """Keep the best ``width`` prompts and work on all of them.

    Attributes:
        width: prompts kept.
        keep_current: whether they compete with their candidates.
    """

    width: int = 4
    keep_current: bool = True

    type: ClassVar[str] = "beam"

    def __post_init__(self) -> None:
        at_least_one(self, "width")

    def start(self, states: Sequence[State]) -> Search:
        """Begin from scored prompts."""
        return _BeamSearch(self, states)


class _BeamSearch(Search):
    def __init__(self, options: Beam, states: Sequence[State]) -> None:
        super().__init__(states)
        self._options = options
        self.frontier = self.frontier[: options.width]

    def select(self) -> list[State]:
        return list(self.frontier)

    def update(self, scored: Scored, *, grown: bool = False) -> None:
        kept = [] if grown or not self._options.keep_current else self.frontier
        self.frontier = merged(kept, scored, self._options.width) or self.frontier
