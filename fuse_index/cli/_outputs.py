"""Files of results: checked before the work, and what becomes of a result where they fail."""

from __future__ import annotations

import csv
import io
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuse_index.cli import _console
from fuse_index.errors import StorageError


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
