"""What the verbs that optimize share: run files, progress, events, interrupts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse_index.cli import _console
from fuse_index.cli._progress import RunProgress
from fuse_index.errors import FuseIndexError, StorageError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from fuse_index.optimize import Budget, Choice, MethodOptions, Problem, Result, Run, RunOptions
    from fuse_index.optimize.optimize import Callback
    from fuse_index.optimize.result import Point


def read_file(path: Path | None) -> dict[str, Any]:
    """Return what a run file says; nothing without one."""
    from fuse_index.run import load_file

    return {} if path is None else load_file(path)


def note_choice(method: MethodOptions | Choice) -> None:
    """Write to stderr which method was chosen, and why; nothing where one was given."""
    reason = getattr(method, "reason", "")
    if reason:
        _console.note(f"method: {reason}")


def note_memory(
    problem: Problem,
    method: MethodOptions | Choice,
    initial: Sequence[tuple[int, ...]],
    options: RunOptions,
) -> None:
    """Write to stderr what a run will take of the memory; with a given method if verbose."""
    from fuse_index.optimize import Choice
    from fuse_index.optimize.memory import plan_memory

    chosen = isinstance(method, Choice)
    plan = plan_memory(
        problem,
        method.method if isinstance(method, Choice) else method,
        initial,
        batch_size=options.batch_size,
        cuda_graphs=options.cuda_graphs,
    )
    say = _console.note if chosen else logger.info
    say(f"memory, about: {plan}")


def stop_if_interrupted(result: Result) -> None:
    """End with the exit code of an interrupt if one ended the run."""
    from fuse_index.optimize import Stop

    if result.stop is Stop.INTERRUPTED:
        raise _console.StoppedEarlyError("interrupted: the best so far is given")


class Output:
    """Progress on the terminal and events in a file, while runs go on.

    Args:
        budget: of every run.
        events: file for the events, if wanted.
        append: whether they go to the end of the file.
    """

    def __init__(self, budget: Budget, events: Path | None, *, append: bool = False) -> None:
        from fuse_index.run import EventWriter

        self._budget = budget
        self._bar = _console.ProgressBar(after=0.0)
        self._progress = RunProgress(budget, self._bar)
        self._events = None if events is None else EventWriter(events, append=append)

    def __enter__(self) -> Output:
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()
        if self._events is not None:
            with suppress(OSError):  # what failed to be written was said
                self._events.close()

    def about(self, title: str, **fields: Any) -> Output:
        """Return the same output for a run about something, which may go on beside others."""
        found = copy(self)
        found._progress = copy(self._progress)
        found._progress.about(title)
        if self._events is not None:
            found._events = copy(self._events)
            found._events.about(**fields)
        return found

    def watch(
        self,
        run: Callable[[Sequence[Callback]], Result],
        on_failure: Callable[[Result], None],
    ) -> Result:
        """Do a run, with its events and progress.

        Args:
            run: takes callbacks, gives the result.
            on_failure: called with the best so far where a model or a disk fails in the middle.

        Raises:
            StorageError: a checkpoint or an event could not be written.
        """
        from fuse_index.optimize import Stop

        latest: list[Run] = []

        def remember(state: Run, _point: Point) -> None:
            latest[:] = [state]

        callbacks: list[Callback] = [remember, self._progress]
        if self._events is not None:
            callbacks.append(self._events)
        try:
            result = run(callbacks)
        except FuseIndexError as error:
            with suppress(OSError):  # of two failures the first counts
                self._write_error(error)
            self._hand_over(error, on_failure)
            raise
        except OSError as error:  # the disk is full, or a folder has gone
            if latest:
                latest[0].stop = Stop.FAILED
            best = latest[0].result(self._budget) if latest else None
            raise self._unwritten(error, best, on_failure) from error
        try:
            if self._events is not None:
                self._events.end(result)
        except OSError as error:
            raise self._unwritten(error, result, on_failure) from error
        return result

    def _write_error(self, error: FuseIndexError) -> None:
        if self._events is None:
            return
        self._events.write("error", type=type(error).__name__, message=str(error))
        if error.result is not None:
            self._events.end(error.result)

    def _unwritten(
        self, error: OSError, result: Result | None, on_failure: Callable[[Result], None]
    ) -> StorageError:
        failure = _storage_error(error)
        failure.result = result
        self._hand_over(failure, on_failure)
        return failure

    def _hand_over(self, error: FuseIndexError, on_failure: Callable[[Result], None]) -> None:
        """Take the progress away and hand the best so far over."""
        self._bar.__exit__()
        if error.result is not None:
            on_failure(error.result)


def _storage_error(error: OSError) -> StorageError:
    return StorageError(
        f"{error.filename or 'a file of the run'} cannot be written ({error.strerror or error})",
        expected="room on the disk, and a folder that can be written",
        remedy="name files elsewhere, and go on from the last checkpoint",
    )
