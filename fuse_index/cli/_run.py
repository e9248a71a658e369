"""What the verbs that optimize share: run files, progress, events, interrupts."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse_index.cli import _console
from fuse_index.cli._progress import RunProgress
from fuse_index.errors import FuseIndexError, StorageError

if TYPE_CHECKING:
    from fuse_index.optimize import Budget, Choice, MethodOptions, Result, Run
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


def require_writable(path: Path | None, flag: str) -> None:
    """Refuse, before the work, a file that could not be written after it.

    Raises:
        StorageError: it is a folder, or its folder is missing or read-only.
    """
    if path is None:
        return
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StorageError(
            f"{flag} {path}",
            expected="a file in a folder that exists and can be written",
            remedy="name another file",
        )


@contextmanager
def writing(what: object, remedy: str = "name another file") -> Iterator[None]:
    """Turn an error of the disk into one that names the file.

    Args:
        what: the file, or the flag that names it.
        remedy: what to do.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{what}: {error.strerror or error}",
            expected="a file that can be written",
            remedy=remedy,
        ) from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; numbers in full.

    Raises:
        StorageError: it cannot be written.
    """
    with writing(path), path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def save(result: Result, path: Path | None) -> None:
    """Write a result, if a file was named for it.

    Raises:
        StorageError: it cannot be written.
    """
    if path is not None:
        with writing(f"--out {path}"):
            result.save(path)


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
            self._events.close()

    def about(self, title: str, **fields: Any) -> None:
        """Say what the following runs are about."""
        self._progress.about(title)
        if self._events is not None:
            self._events.about(**fields)

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
            if self._events is not None:
                self._events.write("error", type=type(error).__name__, message=str(error))
                if error.result is not None:
                    self._events.end(error.result)
            self._hand_over(error, on_failure)
            raise
        except OSError as error:  # the disk is full, or a folder has gone
            failure = _storage_error(error)
            if latest:
                latest[0].stop = Stop.FAILED
                failure.result = latest[0].result(self._budget)
            self._hand_over(failure, on_failure)
            raise failure from error
        if self._events is not None:
            self._events.end(result)
        return result

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
