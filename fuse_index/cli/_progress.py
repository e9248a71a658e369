"""The progress of a run on the terminal: best text, losses, rate, what is left of the budget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fuse_index.cli import _console

if TYPE_CHECKING:
    from rich.text import Text

    from fuse_index.optimize import Budget, Run
    from fuse_index.optimize.result import Point


class RunProgress:
    """Shows runs, one after another; call it as a callback of a run.

    Args:
        budget: of every run.
        bar: shows them.
    """

    def __init__(self, budget: Budget, bar: _console.ProgressBar) -> None:
        self._budget = budget
        self._bar = bar
        self._title = ""
        self._begin = (0.0, 0, 0, 0)

    def about(self, title: str) -> None:
        """Set what stands before the run, such as the image."""
        self._title = title

    def __call__(self, run: Run, point: Point) -> None:
        """Show the state after a step."""
        if not run.trajectory[:-1]:
            counts = point.step, point.forward_passes, point.flops or 0
            self._begin = (time.perf_counter(), *counts)
        self._bar.show(self.render(run, point))

    def render(self, run: Run, point: Point) -> Text:
        """Return what is shown: counts and rate, losses of the best prompt, its text."""
        from rich.text import Text

        begin, first_step, first_passes, first_flops = self._begin
        seconds = max(time.perf_counter() - begin, 1e-9)
        steps = (point.step - first_step) / seconds
        passes = (point.forward_passes - first_passes) / seconds
        operations = ((point.flops or 0) - first_flops) / seconds
        budget = self._budget
        counts = [
            f"step {_of(point.step, budget.steps)}",
            f"{_of(point.forward_passes, budget.forward_passes)} passes",
            *_flops(point.flops, budget.flops),
            _time(point.seconds)
            + ("" if budget.seconds is None else f" of {_time(budget.seconds)}"),
            f"{steps:.1f} steps/s, {passes:,.0f} passes/s",
        ]
        left = self._left(point, steps, passes, operations)
        counts += [] if left is None else [f"{_time(left)} left"]
        terms = zip(run.problem.names, run.best.losses, strict=True)
        losses = "  ".join(f"{name} {value:.4f}" for name, value in terms)
        text = _console.clean(run.problem.decode(run.best.ids).strip())
        title = f"{_console.clean(self._title)}\n" if self._title else ""
        return Text.assemble(
            (title, "bold"),
            " | ".join(counts),
            f"\nbest {run.best.total:.4f}  {losses}\n",
            (text, "cyan"),
        )

    def _left(self, point: Point, steps: float, passes: float, operations: float) -> float | None:
        """Seconds until the first limit that is reached at this rate."""
        budget = self._budget
        limits: tuple[tuple[float | None, float, float], ...] = (
            (budget.seconds, point.seconds, 1.0),
            (budget.steps, point.step, steps),
            (budget.forward_passes, point.forward_passes, passes),
            (budget.flops, point.flops or 0, operations),
        )
        found = [(most - done) / rate for most, done, rate in limits if most is not None and rate]
        return max(0.0, min(found)) if found else None


def _of(value: int, limit: int | None) -> str:
    return f"{value:,}" if limit is None else f"{value:,}/{limit:,}"


def _flops(value: int | None, limit: float | None) -> list[str]:
    """What is shown where operations are limited."""
    return [] if value is None or limit is None else [f"{value:.3g}/{limit:.3g} FLOPs"]


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
