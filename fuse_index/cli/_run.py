"""What the verbs that optimize share: run files, progress, events, interrupts."""

from __future__ import annotations

import csv
import io
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
    from fuse_index.common.files import is_special

    place = Path(os.path.realpath(path))
    folder = place.parent
    if is_special(path):
        fits = os.access(path, os.W_OK)
    else:
        fits = not place.is_dir() and folder.is_dir() and os.access(folder, os.W_OK)
    if not fits:
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


@dataclass(frozen=True)
class Unsaved:
    """A file of results that could not be written.

    Attributes:
        error: why, and where its content is instead.
        text: the content where it is nowhere else, and can be printed.
    """

    error: StorageError
    text: str = ""


def save(data: bytes, path: Path | None, flag: str, *, is_text: bool = True) -> Unsaved | None:
    """Write results to a file, if one was named; beside it where that fails.

    Args:
        data: the content.
        path: the file.
        flag: what names it, such as ``--out``.
        is_text: whether the content can be printed.

    Returns:
        None where it was written; :func:`finish` says what became of it otherwise.
    """
    from fuse_index.common.files import write_out

    if path is None:
        return None
    try:
        write_out(path, data)
    except OSError as error:
        beside = _write_beside(data, path)
        if beside is not None:
            where = f"its content is in {beside}"
        else:
            where = "its content is on standard output" if is_text else "its content is lost"
        failure = StorageError(
            f"{flag} {path}: {error.strerror or error}",
            expected="a file that can be written",
            remedy=where,
        )
        return Unsaved(failure, data.decode() if is_text and beside is None else "")
    return None


def _write_beside(data: bytes, path: Path) -> Path | None:
    """Write to a new file in the same folder; None where that fails as well."""
    from fuse_index.common.files import is_special, write_out

    beside = path.with_name(f"{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    if is_special(path):  # beside a device there are only devices
        return None
    try:
        write_out(beside, data)
    except OSError:
        return None
    return beside


def finish(
    json: bool,
    value: dict[str, Any],
    show: Callable[[], None],
    unsaved: Sequence[Unsaved | None] = (),
) -> None:
    """Print a result, whatever became of its files; then say what could not be written.

    Args:
        json: whether to print one JSON object.
        value: the result as a JSON object.
        show: shows it to people.
        unsaved: what :func:`save` returned for each file.

    Raises:
        StorageError: a file could not be written; with ``json`` the result is printed with it.
    """
    failures = [item for item in unsaved if item is not None]
    if json and failures:
        failures[0].error.result = value
        raise failures[0].error
    _console.answer(json, value, show)
    _print_unsaved(failures)
    if failures:
        for item in failures[1:]:
            _console.error(_console.one_line(str(item.error)))
        raise failures[0].error


def finish_failed(show: Callable[[], None], unsaved: Sequence[Unsaved | None]) -> None:
    """Show what a run that failed had found, as :func:`finish` does; its own error follows."""
    failures = [item for item in unsaved if item is not None]
    show()
    _print_unsaved(failures)
    for item in failures:
        _console.error(_console.one_line(str(item.error)))


def _print_unsaved(failures: Sequence[Unsaved]) -> None:
    for item in failures:
        text = item.text
        if sys.stdout.isatty():
            text = "\n".join(map(_console.clean, text.split("\n")))
        sys.stdout.write(text)


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return a table as CSV; numbers in full."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


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
