"""Deterministic writing and strict reading of JSON."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from fuse_index.errors import BundleError


def plain(value: Any) -> Any:
    """Convert a value to JSON types, equal for equal values.

    Mappings get sorted string keys, sequences become lists, enums their values, paths their text;
    NumPy and torch scalars become Python numbers, and numbers that are not finite ``None``.

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


def load_strict(data: bytes | bytearray | memoryview, where: str) -> dict[str, Any]:
    """Parse a JSON object from a file that may be hostile.

    Args:
        data: UTF-8 text.
        where: what is parsed, for messages.

    Returns:
        The object; every number in it is finite, no key occurred twice.

    Raises:
        BundleError: not UTF-8, not JSON, not an object, a key twice, a number that is not finite,
            or nested too deeply.
    """
    try:
        value = json.loads(
            bytes(data).decode("utf-8"),
            object_pairs_hook=_distinct,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BundleError(
            f"{where} is not valid JSON ({reason})",
            expected="a JSON object as fuse_index writes it",
            remedy="fetch or build the bundle again",
        ) from None
    if not isinstance(value, dict):
        raise BundleError(
            f"{where} holds a JSON {type(value).__name__}",
            expected="a JSON object",
            remedy="fetch or build the bundle again",
        )
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} occurs twice")
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text} is out of range")
    return number
