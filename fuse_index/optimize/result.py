"""What a run gives: the best prompt, how it got there, and what it was asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from fuse_index.bundle.jsontext import plain
from fuse_index.common.files import write_out
from fuse_index.common.stored import Whole, check_schema, parse_json
from fuse_index.errors import OptionError
from fuse_index.optimize.budget import Stop
from fuse_index.optimize.check import Check, check_prompt
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.state import State

FORMAT = "fuse_index result"
_MOST_VALUES = 1 << 24
_Number = float | None
"""A number; None stands for one that JSON cannot hold."""


class _PointJson(TypedDict):
    step: Whole
    forward_passes: Whole
    seconds: _Number
    total: _Number
    losses: list[_Number]
    best: _Number
    ids: list[Whole]
    candidates: Whole
    survived: Whole


class _ParetoJson(TypedDict):
    text: str
    ids: list[Whole]
    total: _Number
    losses: dict[str, _Number]


class _ResultJson(TypedDict):
    """Types of what a result's file holds; the classes made from it know the names."""

    text: str
    ids: list[Whole]
    total: _Number
    losses: dict[str, _Number]
    stop: str
    spent: dict[str, Any]
    trajectory: list[_PointJson]
    pareto: list[_ParetoJson]
    weights: dict[str, _Number]
    configuration: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Point:
    """One step of a trajectory.

    Attributes:
        step: its number, 0 for the initial prompts.
        forward_passes: spent when it ended.
        seconds: wall time when it ended.
        total: of the prompt the search stands at.
        losses: of that prompt, one for every term.
        best: the smallest total so far.
        ids: the prompt the search stands at.
        candidates: proposed, without repeats.
        survived: of these, those that passed the filters.
        items: those that counted, of every objective whose items change, by name.
        flops: floating-point operations spent when it ended; None where they cannot be counted.
    """

    step: int
    forward_passes: int
    seconds: float
    total: float
    losses: tuple[float, ...]
    best: float
    ids: tuple[int, ...]
    candidates: int
    survived: int
    items: dict[str, tuple[int, ...]] = field(default_factory=dict)
    flops: int | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Point:
        """Build a step from its fields as JSON has them."""
        values = {**value, "ids": tuple(value["ids"]), "losses": tuple(value["losses"])}
        values["items"] = {name: tuple(own) for name, own in value.get("items", {}).items()}
        return cls(**values)


@dataclass(frozen=True)
class Result:
    """What :func:`fuse_index.optimize.optimize` found.

    Attributes:
        text: the best prompt.
        ids: its tokens in the source model.
        total: its weighted loss.
        losses: its loss in every term, by name.
        items: its loss for every item, of every term that has items, by name; None for one that was
            not added yet.
        checks: what every model does with the text, where that was asked for.
        stop: why the run ended.
        spent: steps, prompts scored, gradients, forward passes, floating-point operations (of all
            models and by model), seconds; see :class:`~fuse_index.optimize.Spent`.
        trajectory: every step.
        pareto: prompts that no other one beats in every term, with their losses, best total first.
        weights: of the terms, after balancing.
        configuration: the options of the run; a run with them gives the same result.
        chosen: one line on what was chosen for what was not given, and why; "" if nothing was.
        versions: of the packages that matter.
        full_texts: the whole text that the model of each term reads, by name: what stands before
            the prompt, the prompt, what stands after it, the target. Pasted together these are the
            tokens that were scored.
    """

    text: str
    ids: tuple[int, ...]
    total: float
    losses: dict[str, float]
    stop: Stop
    spent: dict[str, Any]
    trajectory: tuple[Point, ...] = field(repr=False)
    pareto: tuple[ParetoPoint, ...] = field(repr=False)
    weights: dict[str, float] = field(repr=False)
    configuration: dict[str, Any] = field(repr=False)
    versions: dict[str, str] = field(repr=False)
    chosen: str = field(default="", repr=False)
    full_texts: dict[str, str] = field(default_factory=dict, repr=False)
    items: dict[str, tuple[float | None, ...]] = field(default_factory=dict, repr=False)
    checks: tuple[Check, ...] = field(default=(), repr=False)

    def check(self, problem: Problem, tokens: int | None = None) -> tuple[Check, ...]:
        """Paste the best prompt into every model, and say whether it does what was wanted.

        Args:
            problem: the one that was optimized, or another of the same source.
            tokens: tokens that causal models write; see :func:`fuse_index.optimize.check_prompt`.

        Returns:
            One check for every objective or item; ``replace(result, checks=...)`` keeps them.
        """
        return check_prompt(problem, self.ids, tokens)

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        values = asdict(self) | {"format": FORMAT, "stop": self.stop.value}
        found: dict[str, Any] = plain(values)
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """Build what :meth:`to_json` returned.

        Raises:
            OptionError: it is not a result of this package.
        """
        if value.get("format") != FORMAT:
            raise OptionError(f"format {value.get('format')!r}", expected=repr(FORMAT))
        check_schema(_ResultJson, value)
        values = {k: v for k, v in value.items() if k != "format"}
        points = [Point.from_json(item) for item in values["trajectory"]]
        front = [ParetoPoint(**{**p, "ids": tuple(p["ids"])}) for p in values["pareto"]]
        values |= {
            "ids": tuple(values["ids"]),
            "stop": Stop(values["stop"]),
            "trajectory": tuple(points),
            "pareto": tuple(front),
            "items": {name: tuple(own) for name, own in values.get("items", {}).items()},
            "checks": tuple(Check.from_json(item) for item in values.get("checks", ())),
        }
        return cls(**values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as JSON; a regular file whole or not at all."""
        write_out(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return what :meth:`save` writes."""
        return (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read what :meth:`save` wrote.

        Raises:
            OptionError: the file holds something else.
        """
        try:
            return cls.from_json(parse_json(Path(path).read_bytes(), _MOST_VALUES))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(f"{path}: {error}", expected="a result of fuse_index") from error


@dataclass(frozen=True)
class ParetoPoint:
    """A prompt of the Pareto front.

    Attributes:
        text: the prompt.
        ids: its tokens in the source model.
        total: its weighted loss.
        losses: its loss in every term, by name.
    """

    text: str
    ids: tuple[int, ...]
    total: float
    losses: dict[str, float]


def pareto_front(states: list[State], size: int) -> list[State]:
    """Keep the states that no other one beats or equals in every term.

    Args:
        states: any; of equals the first stays.
        size: most to keep; those with the smallest totals.

    Returns:
        The front, the smallest total first.
    """
    states = sorted(states, key=lambda state: state.total)
    if not states:
        return []
    losses = np.array([state.losses for state in states])
    no_worse = np.ones((len(states), len(states)), dtype=bool)
    for term in losses.T:
        no_worse &= term[:, None] <= term
    # of two that are equal in every term the first beats the other
    beats = no_worse & (~no_worse.T | np.tri(len(states), k=-1, dtype=bool).T)
    return [states[i] for i in np.flatnonzero(~beats.any(axis=0))[:size]]
