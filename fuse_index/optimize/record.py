"""What a run has found: the best prompt, the Pareto front, every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fuse_index.optimize.result import ParetoPoint, Point, pareto_front
from fuse_index.optimize.state import Scored, State

if TYPE_CHECKING:
    from fuse_index.optimize.problem import Problem
    from fuse_index.predict.spent import Spent


class Record:
    """Keeps what a run has found.

    Args:
        states: the initial prompts, scored.
        pareto_size: prompts kept of the Pareto front.

    Attributes:
        best: the prompt with the smallest total.
        pareto: prompts that no other one beats in every term, the smallest total first.
        trajectory: every step.
    """

    def __init__(self, states: Sequence[State], pareto_size: int) -> None:
        self._size = pareto_size
        self.best = min(states, key=lambda state: state.total)
        self.pareto = pareto_front(list(states), pareto_size)
        self.trajectory: list[Point] = []

    def keep(self, scored: Scored, promising: Sequence[State]) -> tuple[bool, bool]:
        """Take up candidates; returns whether one may be kept, and whether the best is better.

        Args:
            scored: the candidates.
            promising: what :meth:`promising` gives for them.
        """
        best = next(scored.best(), None)
        if best is None:
            return False, False
        better = best.total < self.best.total
        if better:
            self.best = best
        accepted = [state for state in promising if scored.accept(state.ids)]
        if accepted:
            self.pareto = pareto_front([*self.pareto, *accepted], self._size)
        return True, better

    def promising(self, scored: Scored) -> list[State]:
        """Return candidates that neither the front nor another one beats; none with one term."""
        if scored.losses.shape[1] < 2:
            return []
        front = np.array([state.losses for state in self.pareto])
        beaten = np.any(np.all(front[None] <= scored.losses[:, None], axis=2), axis=1)
        fresh = [scored.state(int(i)) for i in np.flatnonzero(~beaten & np.isfinite(scored.totals))]
        return pareto_front(fresh, len(fresh))

    def add_step(self, here: State, spent: Spent, candidates: int, survived: int) -> None:
        """Write a step down.

        Args:
            here: the prompt the search stands at.
            spent: what the run has spent.
            candidates: proposed in the step, without repeats.
            survived: of these, those that passed the filters.
        """
        point = Point(
            step=spent.steps,
            forward_passes=spent.forward_passes,
            seconds=spent.seconds,
            total=here.total,
            losses=here.losses,
            best=self.best.total,
            ids=here.ids,
            candidates=candidates,
            survived=survived,
        )
        self.trajectory.append(point)

    def front(self, problem: Problem) -> tuple[ParetoPoint, ...]:
        """Return the Pareto front with texts and the names of the terms."""
        return tuple(
            ParetoPoint(
                problem.decode(state.ids),
                state.ids,
                state.total,
                dict(zip(problem.names, state.losses, strict=True)),
            )
            for state in self.pareto
        )

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {
            "best": self.best.to_json(),
            "pareto": [state.to_json() for state in self.pareto],
            "trajectory": [vars(point) for point in self.trajectory],
        }

    def load_json(self, value: dict[str, Any]) -> None:
        """Continue from what :meth:`to_json` returned."""
        self.best = State.from_json(value["best"])
        self.pareto = [State.from_json(item) for item in value["pareto"]]
        self.trajectory = [Point.from_json(item) for item in value["trajectory"]]
