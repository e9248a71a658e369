"""What the race has found: means, standard errors, curves, and differences from GCG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _bench import median, row
from _race_runs import Outcome

_RESAMPLES = 10_000
_SHARES = (1 / 8, 1 / 4, 1 / 2)


def loss_at(outcome: Outcome, column: int, limit: float) -> float:
    """The best loss after so many FLOPs (column 0) or seconds (1); the first one before that."""
    reached = [point[2] for point in outcome.curve if point[column] <= limit]
    return reached[-1] if reached else outcome.curve[0][2]


def rows_of(
    outcomes: dict[str, list[Outcome]], baseline: str, flops: float, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Return a row for every method.

    The loss of a run is its best one in the end, after the step that reached the budget.

    Args:
        outcomes: by method, of the same targets and seeds in the same order.
        baseline: the method that others are compared with.
        flops: the budget.
        seed: of the bootstrap.
    """
    time = median([own.curve[-1][1] for own in outcomes[baseline]])
    found = []
    for name, own in outcomes.items():
        final = np.array([each.final for each in own])
        timed = np.array([loss_at(each, 1, time) for each in own])
        seconds = median([each.curve[-1][1] for each in own])
        other = np.array([each.final for each in outcomes[baseline]])
        other_timed = np.array([loss_at(each, 1, time) for each in outcomes[baseline]])
        targets = [each.task for each in own]
        found.append(
            row(
                name,
                seconds,
                baseline,
                time,
                loss=float(final.mean()),
                standard_error=_error(final, targets),
                curve=[float(np.mean([loss_at(e, 0, s * flops) for e in own])) for s in _SHARES],
                loss_at_equal_seconds=float(timed.mean()),
                difference=_interval(final - other, targets, seed),
                difference_at_equal_seconds=_interval(timed - other_timed, targets, seed),
                spent=float(np.mean([each.curve[-1][0] for each in own])) / flops,
                once=float(np.mean([each.once for each in own])) / flops,
                runs=len(own),
                example=own[0].text,
                options=own[0].options,
            )
        )
    return found


def _by_target(values: Any, targets: Sequence[str]) -> Any:
    """The mean over the seeds of each target: runs of one target are not independent."""
    names = list(dict.fromkeys(targets))
    where = np.array([names.index(own) for own in targets])
    return np.array([values[where == i].mean() for i in range(len(names))])


def _error(values: Any, targets: Sequence[str]) -> float | None:
    means = _by_target(values, targets)
    return float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else None


def _interval(differences: Any, targets: Sequence[str], seed: int) -> list[float]:
    """The mean difference of paired targets, and its 95 % interval by bootstrap over targets."""
    means = _by_target(differences, targets)
    drawn = np.random.default_rng(seed).integers(len(means), size=(_RESAMPLES, len(means)))
    low, high = np.quantile(means[drawn].mean(axis=1), (0.025, 0.975))
    return [float(means.mean()), float(low), float(high)]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, the best first."""
    lines = [
        "| method | loss | s.e. | after 1/8, 1/4, 1/2 | minus the baseline (95 %) | "
        "at its seconds | seconds | of the FLOPs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for own in sorted(rows, key=lambda each: each["loss"]):
        mean, low, high = own["difference"]
        error = own["standard_error"]
        shown = "-" if error is None else f"{error:.2f}"
        curve = ", ".join(f"{value:.2f}" for value in own["curve"])
        lines.append(
            f"| {own['case']} | {own['loss']:.3f} | {shown} | {curve} | "
            f"{mean:+.2f} ({low:+.2f}, {high:+.2f}) | {own['loss_at_equal_seconds']:.2f} | "
            f"{own['seconds']:.1f} | {own['spent']:.2f} |"
        )
    return "\n".join(lines)


def plot(outcomes: dict[str, list[Outcome]], flops: float, path: Path, title: str) -> None:
    """Draw the mean best loss of every method over FLOPs and over seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5))
    for column, label in ((0, "FLOPs"), (1, "seconds")):
        axes = figure.add_subplot(1, 2, column + 1)
        most = max(own.curve[-1][column] for runs in outcomes.values() for own in runs)
        end = flops if column == 0 else most
        grid = np.geomspace(end / 200, end, 200)
        for name, runs in outcomes.items():
            axes.plot(
                grid, [np.mean([loss_at(o, column, g) for o in runs]) for g in grid], label=name
            )
        axes.set_xlabel(label)
        axes.set_xscale("log")
        axes.set_ylabel("best loss, mean over targets and seeds")
    axes.legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path)
