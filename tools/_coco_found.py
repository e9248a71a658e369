"""Captions that the harness made, in a file that it goes on from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuse_index.run.captioned import Caption

_ERRORS = (ValueError, TypeError, KeyError)


@dataclass(frozen=True)
class Found:
    """A caption and what it cost.

    Attributes:
        text: the caption.
        losses: of every term.
        passes: forward passes.
        seconds: of the search; loading the models is not in them.
    """

    text: str
    losses: dict[str, float]
    passes: int
    seconds: float


class Store:
    """Captions by image, for every setting; one line of JSON each.

    Args:
        path: the file; None keeps nothing. A last line that was not finished is passed over.

    Attributes:
        told: what of the file could not be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, dict[Any, Found]] = {}
        self.told: list[str] = []
        lines = path.read_bytes().split(b"\n") if path is not None and path.exists() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                setting, image, found = json.loads(line)
                self._known.setdefault(setting, {})[image] = Found(**found)
            except _ERRORS:
                self.told.append(f"{path}: line {number} is no caption, and is made again")
        if lines and lines[-1]:  # cut short: what follows begins on a line of its own
            with self._file() as file:
                file.write("\n")

    def of(self, setting: Any) -> dict[Any, Found]:
        """Return the captions of a setting by image."""
        return dict(self._known.get(_digest(setting), {}))

    def keep(self, setting: Any, image: Any, caption: Caption) -> Found:
        """Add a caption to the file."""
        spent = caption.result.spent
        found = Found(
            caption.text, dict(caption.result.losses), spent["forward_passes"], spent["seconds"]
        )
        if self._path is not None:
            with self._file() as file:
                file.write(json.dumps([_digest(setting), image, asdict(found)]) + "\n")
        return found

    def _file(self) -> Any:
        assert self._path is not None
        return self._path.open("a", encoding="utf-8")


def _digest(setting: Any) -> str:
    """Name of a setting: all that decides a caption but its picture."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:16]
