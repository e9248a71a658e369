"""What a run has found: the best prompt, the Pareto front, every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fuse_index.optimize.problem import Problem
from fuse_index.optimize.result import ParetoPoint, Point, pareto_front
from fuse_index.optimize.state import Scored, State
from fuse_index.predict.spent import Spent


class Record:
    """Keeps what a run has found.

    Args:
        states: the initial prompts, scored.
        pareto_size: prompts kept of the Pareto front.
        readable: which of them are read as text in the tokens that were scored; by default all.

    Attributes:
        best: the prompt with the smallest total.
        provisional: whether it is an initial prompt that is not read as it was scored, because
            none is; the first candidate that is replaces it.
        pareto: prompts that no other one beats in every term, the smallest total first.
        trajectory: every step.
    """

    def __init__(
        self, states: Sequence[State], pareto_size: int, readable: Sequence[bool] = ()
    ) -> None:
        self._size = pareto_size
        kept = [state for state, good in zip(states, readable, strict=False) if good]
        kept = kept if readable else list(states)
        self.provisional = not kept
        self.best = min(kept or states, key=lambda state: state.total)
        self.pareto = pareto_front(kept, pareto_size)
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
        better = self.provisional or best.total < self.best.total
        if better:
            self.best, self.provisional = best, False
        accepted = [state for state in promising if scored.accept(state.ids)]
        if accepted:
            self.pareto = pareto_front([*self.pareto, *accepted], self._size)
        return True, better

    def revalue(
        self, value: Callable[[Sequence[State]], list[State]], more: Sequence[State]
    ) -> None:
        """Judge what was found by other losses, because the items that count have changed.

        Args:
            value: gives prompts their new losses.
            more: prompts that may be kept, with new losses; one of them may be the best now.
        """
        best, *front = value([self.best, *self.pareto])
        known = [*front, *more] if self.provisional else [best, *front, *more]
        self.best = min(known or [best], key=lambda state: state.total)
        self.provisional = not known
        self.pareto = pareto_front(front, self._size)

    def promising(self, scored: Scored) -> list[State]:
        """Return candidates that neither the front nor another one beats; none with one term."""
        if scored.losses.shape[1] < 2:
            return []
        terms = scored.losses.shape[1]
        front = np.array([state.losses for state in self.pareto]).reshape(-1, terms)
        beaten = np.any(np.all(front[None] <= scored.losses[:, None], axis=2), axis=1)
        fresh = [scored.state(int(i)) for i in np.flatnonzero(~beaten & np.isfinite(scored.totals))]
        return pareto_front(fresh, len(fresh))

    def add_step(
        self,
        here: State,
        spent: Spent,
        candidates: int,
        survived: int,
        items: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Write a step down.

        Args:
            here: the prompt the search stands at.
            spent: what the run has spent.
            candidates: proposed in the step, without repeats.
            survived: of these, those that passed the filters.
            items: those that counted, of every objective whose items change, by name.
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
            items=dict(items),
            flops=spent.flops,
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
            "best": vars(self.best),
            "provisional": self.provisional,
            "pareto": [vars(state) for state in self.pareto],
            "trajectory": [vars(point) for point in self.trajectory],
        }

    def load_json(self, value: dict[str, Any]) -> None:
        """Continue from what :meth:`to_json` returned."""
        self.best = State.from_json(value["best"])
        self.provisional = bool(value.get("provisional", False))
        self.pareto = [State.from_json(item) for item in value["pareto"]]
        self.trajectory = [Point.from_json(item) for item in value["trajectory"]]
