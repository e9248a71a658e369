"""Runs of the race: one method on one target with one seed, kept in a folder as it ends."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _race_tracks import Task, Track

_POINTS = 200
"""Points of a curve that are kept."""


@dataclass(frozen=True)
class Outcome:
    """What one run gave.

    Attributes:
        method: its name.
        task: its target, by name.
        seed: of its draws.
        curve: rows of FLOPs, seconds and the best loss so far.
        text: the best prompt.
        options: of the method and the search, as they were used.
        once: FLOPs of what is computed once and kept, such as states of words; not in the curve.
    """

    method: str
    task: str
    seed: int
    curve: list[list[float]]
    text: str
    options: dict[str, Any]
    once: float = 0.0

    @property
    def final(self) -> float:
        """The best loss in the end."""
        return self.curve[-1][2]


class Folder:
    """Outcomes in files, so that a race goes on where it was stopped.

    Args:
        path: the folder, made if it is not there; None keeps nothing.
        common: what all runs share, such as the models and the budget. Outcomes of others are not
            taken for these.
    """

    def __init__(self, path: Path | None, common: dict[str, Any]) -> None:
        self._path, self._common = path, common
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)

    def _file(self, key: dict[str, Any]) -> Path | None:
        if self._path is None:
            return None
        text = json.dumps(self._common | key, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._path / f"{digest}.json"

    def find(self, **key: Any) -> Outcome | None:
        """Return the outcome of a run that was kept."""
        file = self._file(key)
        if file is None or not file.exists():
            return None
        return Outcome(**json.loads(file.read_text(encoding="utf-8"))["outcome"])

    def keep(self, outcome: Outcome, **key: Any) -> None:
        """Write an outcome, whole or not at all."""
        file = self._file(key)
        if file is None:
            return
        value = {**self._common, **key, "outcome": asdict(outcome)}
        part = file.with_suffix(".part")
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")
        os.replace(part, file)


@dataclass(frozen=True)
class Job:
    """One run of a method.

    Attributes:
        method: its name.
        task: the target.
        seed: of its draws.
    """

    method: str
    task: Task
    seed: int


@dataclass(frozen=True)
class Limits:
    """What a run may spend.

    Attributes:
        flops: by Kaplan's rule.
        seconds: wall time; None without a limit.
    """

    flops: float
    seconds: float | None = None


def run(track: Track, choice: Any, job: Job, limits: Limits) -> Outcome:
    """Run a method of this package."""
    from fuse_index.optimize import Budget, RunOptions, optimize

    problem = track.problem(job.task)
    initial = track.initial(job.task, job.seed)
    once = _once(problem, choice.method)
    result = optimize(
        problem,
        [initial],
        method=choice,
        budget=Budget(flops=limits.flops, seconds=limits.seconds),
        options=RunOptions(seed=job.seed),
    )
    rows = [[float(p.flops or 0), p.seconds, p.best] for p in result.trajectory]
    chosen = {"method": choice.method.to_json(), "search": choice.search.to_json()}
    curve = thinned(rows)
    return Outcome(job.method, job.task.name, job.seed, curve, result.text, chosen, once)


def _once(problem: Any, method: Any) -> float:
    """FLOPs of the states of units, where a method looks them up; they are computed here."""
    from fuse_index.predict.ranking import Predictor
    from fuse_index.predict.states import Contexts, states_cost

    if method.ranking is None or method.ranking[1] is not Predictor.LAYERS:
        return 0.0
    units, found = problem.units(method.ranking[0]), 0.0
    contexts = Contexts()
    for target in dict.fromkeys(problem.targets):
        if method.ranking[0] == "token" and not target.same_tokens:
            continue
        model = target.model
        units.states(model)
        read = float(np.mean(units.tokens(model).lengths)) + contexts.words
        found += 2.0 * model.active_parameters * states_cost(model, len(units))[1] * read
    return found


def thinned(rows: list[list[float]]) -> list[list[float]]:
    """Keep the first and last row, and those in between at which the best loss fell."""
    kept = [row for i, row in enumerate(rows) if i in (0, len(rows) - 1) or row[2] < rows[i - 1][2]]
    step = -(-len(kept) // _POINTS)
    return kept if step <= 1 else [*kept[:-1:step], kept[-1]]
