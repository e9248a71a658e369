"""JSON from files that may be hostile: bounded before it is parsed, then checked by a schema.

Whoever shares a file also writes its checksums, so that a file whose checksum fits may still be
made to exhaust memory or the stack. Depth and number of values are counted in the bytes, before
anything is built from them; types are those of a schema that pydantic checks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from fuse_index.common.reading import expected_by

Value = TypeVar("Value")

MAX_DEPTH = 64
"""Objects and lists inside one another that a file may hold."""
MAX_VALUES = 1 << 20
"""Commas, colons and brackets of a file, where its format sets no other bound."""

EXACT = ConfigDict(extra="forbid")
"""Of a schema of objects: keys that it does not name are refused."""
Whole = Annotated[int, Field(ge=0, lt=1 << 63)]
"""A whole number that an int64 holds, at least 0."""

_CHUNK = 1 << 20
_OPENING, _CLOSING, _BETWEEN = b"[{", b"]}", b",:"
_SURROGATE = re.compile(rb"\\u[dD][89abAB]")
_SHOWN = 80


class SchemaError(ValueError):
    """A value does not fit a schema.

    Attributes:
        expected: what would have been accepted.
    """

    def __init__(self, problem: str, expected: str = "") -> None:
        self.expected = expected
        super().__init__(problem)


def parse_json(data: bytes | bytearray | memoryview, most_values: int = MAX_VALUES) -> Any:
    """Parse JSON whose depth and number of values are bounded first.

    Args:
        data: UTF-8 text.
        most_values: most commas, colons and opening brackets outside texts.

    Returns:
        The value. Every number in it fits a float and is finite, no key occurred twice, and texts
        are valid Unicode.

    Raises:
        ValueError: anything else; the message says why, in a few words.
    """
    text = bytes(data)
    depth, values = _measure(text)
    if depth > MAX_DEPTH:
        raise ValueError(f"nested too deeply: {depth} levels, more than {MAX_DEPTH}")
    if values > most_values:
        raise ValueError(f"{values} values, more than {most_values}")
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_distinct,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeError as error:
        raise ValueError(f"no valid Unicode: {error.reason}") from None  # type: ignore[attr-defined]
    return value


def _measure(text: bytes) -> tuple[int, int]:
    """Return the depth of a JSON text, and its commas, colons and opening brackets.

    Only what stands outside texts counts; where the JSON is malformed, what comes before the fault
    is measured as the parser reads it.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    deepest = depth = values = 0
    inside = False
    codes = np.frombuffer(text, np.uint8)
    for start in range(0, codes.size, _CHUNK):
        chunk = codes[start : start + _CHUNK]
        quotes = np.cumsum(chunk == ord('"'), dtype=np.uint8) & 1  # wraps; the parity stays
        outside = quotes == int(inside)
        inside ^= bool(quotes[-1])
        opening = _are(chunk, _OPENING) & outside
        steps = opening.astype(np.int8) - (_are(chunk, _CLOSING) & outside)
        levels = depth + np.cumsum(steps, dtype=np.int64)
        deepest, depth = max(deepest, int(levels.max())), int(levels[-1])
        values += int(opening.sum()) + int((_are(chunk, _BETWEEN) & outside).sum())
    return deepest, values


def _are(codes: Any, wanted: bytes) -> Any:
    return (codes == wanted[0]) | (codes == wanted[1])


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {_short(twice)} occurs twice")
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text[:_SHOWN]} is out of range")
    return number


def _bounded(text: str) -> int:
    _finite(text)
    return int(text)


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def check_schema(schema: type[Value], value: Any) -> Value:
    """Check a value against a schema: types, ranges, keys that are missing or unknown.

    Args:
        schema: a type that pydantic understands, such as a ``TypedDict``.
        value: as :func:`parse_json` returns it.

    Returns:
        The value.

    Raises:
        SchemaError: naming the place of the first fault.
    """
    try:
        adapter: TypeAdapter[Value] = _adapter(schema)  # type: ignore[arg-type]
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise _schema_error(error) from None


def at_most(count: int) -> BeforeValidator:
    """Bound the items of a list or an object, before any of them is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > count:
            context = {"found": len(value), "most": count}
            raise PydanticCustomError("too_many", "{found} items, more than {most}", context)
        return value

    return BeforeValidator(check)


def _schema_error(error: ValidationError) -> SchemaError:
    found: list[Any] = error.errors(include_url=False)
    for kind, problem in (("missing", "lacks"), ("extra_forbidden", "has unknown keys")):
        places = [item["loc"] for item in found if item["type"] == kind]
        if places:
            *above, _ = places[0]
            keys = sorted(place[-1] for place in places if [*place[:-1]] == above)
            return SchemaError(f"{_path(above)}{' ' if above else ''}{problem} {_short(keys)}")
    first = found[0]
    place, given, expected = _path(first["loc"]), first["input"], _expected(first)
    if first["type"] == "too_many":
        return SchemaError(f"{place} has {first['msg']}")
    plain = len(first["loc"]) > 1 and not isinstance(given, list | dict)
    if first["type"].endswith("_type") and not plain:
        return SchemaError(f"{place} has the wrong type", expected)
    return SchemaError(f"{place} is {_short(given)}", expected)


def _expected(found: Any) -> str:
    return _WORDS.get(found["type"].split("_")[0]) or expected_by(found)


_WORDS = {"list": "a list", "dict": "an object", "string": "text"}
"""JSON's words for what pydantic wants, by the first word of its error types."""


def _path(place: Iterable[int | str]) -> str:
    """Name a place, such as ``files['a.json']['size']``."""
    parts = [*place]
    return "".join(f"[{part!r}]" if i else str(part) for i, part in enumerate(parts))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
