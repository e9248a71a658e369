"""Events of a run for machines: one JSON object a line, written as they happen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse_index.bundle.jsontext import plain
from fuse_index.common.versions import package_versions
from fuse_index.errors import StorageError

if TYPE_CHECKING:
    from fuse_index.optimize import Result, Run
    from fuse_index.optimize.result import Point


class EventWriter:
    """Writes events to a file; call it as a callback of a run.

    Events are ``start`` (configuration and versions), ``step`` (one for the initial prompts and one
    a step), ``end`` (stop, best prompt, losses, what was spent) and ``error``.

    Args:
        path: the file, which is replaced.
        append: go on at its end instead, as after a resumption.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        self._path = Path(path)
        self._common: dict[str, Any] = {}
        try:
            self._file = self._path.open("a" if append else "w", encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"events file {path}: {error.strerror}", expected="a file that can be written"
            ) from error

    def about(self, **common: Any) -> None:
        """Set fields that all following events have, such as the image."""
        self._common = common

    def write(self, event: str, **values: Any) -> None:
        """Write one event; it is on disk when this returns."""
        line = {"event": event, **self._common, **values}
        self._file.write(json.dumps(plain(line), allow_nan=False) + "\n")
        self._file.flush()

    def __call__(self, run: Run, point: Point) -> None:
        """Write a step."""
        if point.step == 0:
            self.write("start", configuration=run.configuration(), versions=package_versions())
        names = run.problem.names
        self.write(
            "step",
            step=point.step,
            text=run.problem.decode(point.ids),
            total=point.total,
            losses=dict(zip(names, point.losses, strict=True)),
            best=point.best,
            best_text=run.problem.decode(run.best.ids),
            forward_passes=point.forward_passes,
            seconds=point.seconds,
            candidates=point.candidates,
            survived=point.survived,
            **({"items": point.items} if point.items else {}),
        )

    def end(self, result: Result) -> None:
        """Write how a run ended."""
        self.write(
            "end",
            stop=result.stop.value,
            text=result.text,
            full_texts=result.full_texts,
            total=result.total,
            losses=result.losses,
            **({"items": result.items} if result.items else {}),
            spent=result.spent,
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
