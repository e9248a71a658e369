"""What a search is: which prompts are kept, and which of them are worked on next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, ClassVar

from fuse_index.errors import OptionError
from fuse_index.optimize.state import Losses, Scored, State, reweighted


@dataclass(frozen=True)
class SearchOptions(ABC):
    """Options of a search; a subclass a search."""

    type: ClassVar[str] = ""
    """Name in files and on the command line."""

    @abstractmethod
    def start(self, states: Sequence[State]) -> Search:
        """Begin a search from scored prompts."""

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON object with the type name."""
        return {"type": self.type, **{f.name: getattr(self, f.name) for f in fields(self)}}


class Search(ABC):
    """Keeps a frontier of prompts, best first."""

    def __init__(self, states: Iterable[State]) -> None:
        self.frontier: list[State] = distinct(sorted(states, key=lambda state: state.total))

    @abstractmethod
    def select(self) -> list[State]:
        """Return the prompts whose candidates are wanted next."""

    @abstractmethod
    def update(self, scored: Scored, *, grown: bool = False) -> None:
        """Take up a step's candidates.

        Args:
            scored: the candidates.
            grown: whether they are longer than the prompts they come from, which then make way.
        """

    def reweight(self, weights: Losses) -> None:
        """Order the frontier by other weights of the terms."""
        self.frontier = sorted(
            (reweighted(state, weights) for state in self.frontier), key=lambda state: state.total
        )

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"frontier": [state.to_json() for state in self.frontier]}

    def load_json(self, value: dict[str, Any]) -> None:
        """Go on from what :meth:`to_json` returned."""
        self.frontier = [State.from_json(item) for item in value["frontier"]]


def distinct(states: Iterable[State]) -> list[State]:
    """Drop prompts that came before."""
    return list({state.ids: state for state in reversed(list(states))}.values())[::-1]


def merged(kept: Iterable[State], scored: Scored, size: int) -> list[State]:
    """Return the ``size`` best of kept prompts and candidates, best first."""
    states = [*kept, *islice(scored.best(), size)]
    return distinct(sorted(states, key=lambda state: state.total))[:size]


def at_least_one(options: SearchOptions, *names: str) -> None:
    """Refuse numbers below 1.

    Raises:
        OptionError: one is.
    """
    for name in names:
        if getattr(options, name) < 1:
            raise OptionError(
                f"{options.type}: {name}={getattr(options, name)}", expected="at least 1"
            )
