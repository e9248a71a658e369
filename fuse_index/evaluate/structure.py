"""JSON files of a known structure, and one line for what they hold instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, StrictStr, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from fuse_index.errors import CorpusError

_ROWS = {"": "entry", "images": "image", "annotations": "annotation"}
"""What a row is called, by the list that it is in."""
Tell = Callable[[str], None]
"""Called with one line on what is left out, and why."""
_T = TypeVar("_T")


def _with_words(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "blank")
    return text


def _unicode(text: str) -> str:
    """Refuse what JSON can spell and no file can hold."""
    text.encode()
    return text


Text = Annotated[StrictStr, AfterValidator(_unicode)]
CaptionText = Annotated[Text, AfterValidator(_with_words)]


def load(path: Path, expected: str, tell: Tell) -> Any:
    """Read a JSON file; of a key that stands twice the last value counts, and that is told.

    Raises:
        CorpusError: it cannot be read, or is not JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            tell(f"{path}: {twice!r} stands twice in one object; the last one counts")
        return found

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read ({error.strerror or error})", expected=expected
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CorpusError(f"{path} is not JSON ({reason})", expected=expected) from error


def validate(kind: type[_T], value: Any, path: Path, expected: str) -> _T:
    """Return what JSON holds as a structure.

    Raises:
        CorpusError: it is of another structure; the message names the entry.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise _structure_error(error, path, expected) from None


def _structure_error(error: ValidationError, path: Path, expected: str) -> CorpusError:
    """Say what the file holds where it should hold something else."""
    problem = error.errors(include_url=False)[0]
    location, value = problem["loc"], problem["input"]
    section = str(location[0]) if location and isinstance(location[0], str) else ""
    row = location[1:] if section else location
    what = f"{path}: {section!r}" if section else str(path)
    if not row and section and (problem["type"] == "missing" or value is None):
        return CorpusError(f"{what} is missing", expected=expected)
    if not row:
        swapped = isinstance(value, list) or (isinstance(value, dict) and "annotations" in value)
        remedy = "predictions come first, references second" if swapped and not section else ""
        return CorpusError(
            f"{what} holds a JSON {kind_of(value)}", expected=expected, remedy=remedy
        )
    if len(row) == 1:
        return CorpusError(f"{what}: entry {row[0]} is a JSON {kind_of(value)}", expected=expected)
    where, field = f"{path}: {_ROWS[section]} {row[0]}", row[1]
    if problem["type"] == "missing":
        return CorpusError(f"{where} has no {field!r}", expected=expected)
    if problem["type"] == "blank":
        return CorpusError(f"{where} has an empty caption", expected="a caption with words")
    if isinstance(value, str):
        given = f"{where} has a lone surrogate in its {field}"
        return CorpusError(given, expected="valid Unicode text")
    wanted = {"caption": expected, "file_name": "text"}.get(str(field), "a whole number or text")
    text = json.dumps(value)
    short = text if len(text) <= 40 else text[:37] + "..."
    return CorpusError(f"{where} has {field} {short}", expected=wanted)


def kind_of(value: Any) -> str:
    """Return what JSON calls a value."""
    names = {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


@dataclass
class Omissions:
    """Entries of a file that are left out, by kind: how many, and the first.

    Attributes:
        path: of the file.
        tell: called with one line a kind.
        kinds: how many, and the first, by kind.
    """

    path: Path
    tell: Tell
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, where: str, count: int = 1) -> None:
        """Leave entries out; ``where`` names the first."""
        had, first = self.kinds.get(kind, (0, where))
        self.kinds[kind] = (had + count, first)

    def say(self) -> None:
        """Tell what was left out."""
        for kind, (count, first) in self.kinds.items():
            self.tell(f"{self.path}: left out, {kind}: {count} (first: {first})")
