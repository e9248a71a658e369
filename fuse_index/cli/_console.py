"""What all verbs share: stdout for results, stderr for everything else.

Colours and progress appear on a terminal only; ``NO_COLOR`` is honoured by rich.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from fuse_index.common.progress import Tick, stage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.text import Text

SHOW_AFTER_SECONDS = 1.0
"""Work that takes less shows no progress bar."""

FILE_WIDTH = 200
"""Columns a table may take where stdout is not a terminal."""

_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_LOGGER = logging.getLogger("fuse_index")


class StoppedEarlyError(Exception):
    """An interrupt ended the work; its results so far are out already."""


class _StderrHandler(logging.Handler):
    """Writes records to whatever ``sys.stderr`` is at that moment (a progress bar replaces it)."""

    def emit(self, record: logging.LogRecord) -> None:
        lines = self.format(record).split("\n")  # of a traceback
        message = f"fuse-index: {record.levelname.lower()}: " + "\n".join(map(clean, lines))
        sys.stderr.write(message + "\n")


def set_up(*, debug: bool = False, verbose: bool = False, quiet: bool = False) -> None:
    """Send the package's log to stderr: warnings, everything, or nothing but errors."""
    _LOGGER.handlers[:] = [_StderrHandler()]
    _LOGGER.propagate = False
    levels = {logging.DEBUG: debug, logging.INFO: verbose, logging.ERROR: quiet}
    _LOGGER.setLevel(next((level for level, on in levels.items() if on), logging.WARNING))


def is_quiet() -> bool:
    """Whether ``--quiet`` was given."""
    return _LOGGER.level >= logging.ERROR


def stdout_console() -> Console:
    """Return a rich console for results; text is never read as markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=width)


def stderr_console() -> Console:
    """Return a rich console for messages; text is never read as markup."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def clean(text: str) -> str:
    """Escape control characters, so that names and words from strangers cannot steer a terminal.

    Everything that is shown to people goes through here. What is printable stays, and so do spaces
    of other widths and the joiners of Persian and of emoji.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def one_line(text: str) -> str:
    """Put a message into one clean line."""
    return clean(" ".join(text.split()))


def error(line: str) -> None:
    """Write ``fuse-index: error: ...`` to stderr."""
    stderr_console().print(f"fuse-index: error: {line}", style="red")


def note(text: str) -> None:
    """Write a remark for people to stderr, unless ``--quiet`` was given."""
    if not is_quiet():
        stderr_console().print(one_line(text))


def say(line: str = "") -> None:
    """Write one line of a result to stdout."""
    sys.stdout.write(clean(line) + "\n")


def print_json(value: Any) -> None:
    """Write one JSON object to stdout: ASCII, sorted keys, null for numbers that are not finite."""
    from fuse_index.bundle.jsontext import plain

    sys.stdout.write(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    justify: Literal["left", "right"] = "right",
) -> None:
    """Write a table to stdout if it has rows; ``justify`` is for all columns but the first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=None if title is None else clean(title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        show_header=any(header),
        pad_edge=False,
    )
    for index, name in enumerate(header):
        table.add_column(clean(name), justify=justify if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(clean(cell) for cell in row))
    if table.row_count:
        console = stdout_console()
        console.print(table)
        console.print()


def answer(json: bool, value: Any, show: Callable[[], None]) -> None:
    """Print ``value`` as one JSON object, or show it to people."""
    if json:
        print_json(value)
    else:
        show()


class ProgressBar:
    """Progress on stderr: a bar for work in stages, or a text; it appears after a second.

    Use as a context manager and call it as a :data:`fuse_index.common.progress.Progress`. Without a
    terminal, or with ``--quiet``, nothing is shown.

    Args:
        after: seconds of work before anything appears.
        console: where to show it; by default stderr if that is a terminal.

    Example:
        ``with ProgressBar() as bar: build_bundle(..., progress=bar)``
    """

    def __init__(self, after: float = SHOW_AFTER_SECONDS, console: Console | None = None) -> None:
        self._after = after
        self._console = console
        self._lock = threading.Lock()
        self._state: tuple[str, int, int | None] = ("", 0, None)
        self._text: Text | None = None
        self._unit = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._drawn = ("", False)
        self._timer: threading.Timer | None = None

    def __enter__(self) -> ProgressBar:
        if self._console is not None or (sys.stderr.isatty() and not is_quiet()):
            self._timer = threading.Timer(self._after, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._timer = None
            if self._progress is not None:
                self._progress.stop()
                self._progress = None

    def __call__(self, label: str, done: int, total: int | None) -> None:
        """Show that ``done`` of ``total`` (``None``: unknown) steps of stage ``label`` are done."""
        text = clean(str(label.value) if isinstance(label, Enum) else label)
        with self._lock:
            self._text = None
            self._unit = getattr(label, "unit", "")
            self._state = (text, done, total)
            self._draw()

    def stage(self, label: str) -> Tick:
        """Return a callback ``(done, total)`` for one stage."""
        return stage(self, label)

    def show(self, text: Text) -> None:
        """Show a text in the place of the bar."""
        with self._lock:
            self._text = text

    def _show(self) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        class Display(Progress):
            def get_renderable(display) -> Any:  # noqa: N805
                return super().get_renderable() if self._text is None else self._text

        with self._lock:
            if self._timer is None:
                return  # the work ended meanwhile
            self._progress = Display(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[amount]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console or stderr_console(),
                transient=True,
            )
            if self._text is None:
                self._draw()
            self._progress.start()

    def _draw(self) -> None:
        if self._progress is None:
            return
        label, done, total = self._state
        # rich takes a total of None as "leave it as it is", so an unknown one needs a new task.
        if self._task is None or self._drawn != (label, total is None):
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(label, total=total, amount="")
            self._drawn = (label, total is None)
        task = self._progress.tasks[-1]
        amount = amount_and_rate(done, task.speed, self._unit)
        self._progress.update(self._task, total=total, completed=done, amount=amount)


def amount_and_rate(done: int, speed: float | None, unit: str) -> str:
    """Say how much is done and how fast, such as ``1,250,000 words, 48,000 words/s``."""
    if not unit or not done:
        return ""
    size, name = (1e6, "MB") if unit == "bytes" else (1.0, unit)
    rate = f", {speed / size:,.0f} {name}/s" if speed else ""
    return f"{done / size:,.0f} {name}{rate}"
