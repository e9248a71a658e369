"""Deterministic writing and strict reading of JSON."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar

from fuse_index.common.stored import MAX_VALUES, SchemaError, check_schema, parse_json
from fuse_index.errors import BundleError

Value = TypeVar("Value")

_FETCH_AGAIN = "fetch or build the bundle again"


def plain(value: Any) -> Any:
    """Convert a value to JSON types, equal for equal values.

    Mappings and dataclasses get sorted string keys, sequences become lists, enums their values,
    paths their text; NumPy and torch scalars become Python numbers, and numbers that are not finite
    ``None``.

    Raises:
        TypeError: the value is of a kind that JSON cannot hold; this is a bug of the caller.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        named = {str(plain(key)): plain(item) for key, item in value.items()}
        return {key: named[key] for key in sorted(named)}
    if is_dataclass(value) and not isinstance(value, type):
        return plain({item.name: getattr(value, item.name) for item in fields(value)})
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def dump_pretty(value: Any) -> bytes:
    """Write a value as indented JSON with sorted keys, ASCII only, with a closing newline."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False)
    return (text + "\n").encode("ascii")


def content_digest(value: Any) -> str:
    """Hash a value: sha256 (hex) of its compact JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def load_strict(
    data: bytes | bytearray | memoryview, where: str, most_values: int = MAX_VALUES
) -> dict[str, Any]:
    """Parse a JSON object from a file that may be hostile.

    Args:
        data: UTF-8 text.
        where: what is parsed, for messages.
        most_values: see :func:`fuse_index.common.stored.parse_json`.

    Returns:
        The object; every number in it is finite, no key occurred twice.

    Raises:
        BundleError: not UTF-8, not JSON, not an object, a key twice, a number that is not finite,
            nested too deeply, or too many values.
    """
    try:
        value = parse_json(data, most_values)
    except ValueError as error:
        raise BundleError(
            f"{where} is not valid JSON ({error})",
            expected="a JSON object as fuse_index writes it",
            remedy=_FETCH_AGAIN,
        ) from None
    if not isinstance(value, dict):
        raise BundleError(
            f"{where} holds a JSON {type(value).__name__}",
            expected="a JSON object",
            remedy=_FETCH_AGAIN,
        )
    return value


def require_schema(
    schema: type[Value], value: Any, where: str, remedy: str = _FETCH_AGAIN
) -> Value:
    """Check what a file holds against a schema.

    Args:
        schema: see :func:`fuse_index.common.stored.check_schema`.
        value: as :func:`load_strict` returns it.
        where: the file, for messages.
        remedy: what the user can do.

    Returns:
        The value.

    Raises:
        BundleError: naming the place of the first fault.
    """
    try:
        return check_schema(schema, value)
    except SchemaError as error:
        join = " " if str(error).startswith(("lacks", "has")) else ": "
        raise BundleError(f"{where}{join}{error}", expected=error.expected, remedy=remedy) from None
