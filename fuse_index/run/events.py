"""Events of a run for machines: one JSON object a line, written as they happen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fuse_index.bundle.jsontext import plain
from fuse_index.common.files import is_special, replacing
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
        append: go on with what it holds instead, as after a resumption: of a run that goes on, what
            it had written after the step that it goes on from makes way, so that every step stands
            once.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        self._path = Path(os.path.realpath(path)) if append else Path(path)
        self._append = append and not is_special(path)
        self._common: dict[str, Any] = {}
        self._begun = False
        try:
            file = self._path.open("a" if append else "w", encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"events file {path}: {error.strerror}", expected="a file that can be written"
            ) from error
        self._files = [file]  # that of copies, too, which write of other runs

    @property
    def _file(self) -> TextIO:
        return self._files[0]

    def about(self, **common: Any) -> None:
        """Set fields that all following events have, such as the image."""
        self._common = common
        self._begun = False

    def write(self, event: str, **values: Any) -> None:
        """Write one event; it is on disk when this returns."""
        line = {"event": event, **self._common, **values}
        self._file.write(json.dumps(plain(line), allow_nan=False) + "\n")
        self._file.flush()

    def __call__(self, run: Run, point: Point) -> None:
        """Write a step; first of all where the run begins."""
        known: set[str] = set()
        first, self._begun = not self._begun, True
        if first and self._append:
            known = self._rewind(point.step)
        if (first or point.step == 0) and "start" not in known:
            self.write("start", configuration=run.configuration(), versions=package_versions())
        if "step" in known:
            return
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
            flops=point.flops,
            seconds=point.seconds,
            candidates=point.candidates,
            survived=point.survived,
            **({"items": point.items} if point.items else {}),
        )

    def _rewind(self, step: int) -> set[str]:
        """Drop what stands of this run after a step; return what stays: "start", and "step"."""
        known: set[str] = set()
        self._file.close()
        try:
            with (
                replacing(self._path) as part,
                self._path.open("rb") as before,
                part.open("wb") as after,
            ):
                after.writelines(line for line in before if self._stays(line, step, known))
        finally:
            self._files[0] = self._path.open("a", encoding="utf-8")
        return known

    def _stays(self, line: bytes, step: int, known: set[str]) -> bool:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return line.endswith(b"\n")  # else a line that a kill cut off
        if not isinstance(value, dict) or any(
            value.get(name) != plain(item) for name, item in self._common.items()
        ):
            return True
        event, number = value.get("event"), value.get("step")
        stays = event == "start" or (event == "step" and isinstance(number, int) and number <= step)
        if step and stays:
            known |= {"start"} if event == "start" else {"step"} if number == step else set()
        return bool(step and stays)

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
