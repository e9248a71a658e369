"""Items of an objective from a JSONL file, one object a line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fuse_index.common.markup import MarkupError, load_json
from fuse_index.errors import OptionError
from fuse_index.objectives.items import PlacedItem
from fuse_index.run.fields import unwrapped


def read_items(path: str | os.PathLike[str]) -> tuple[PlacedItem, ...]:
    """Read the items of an objective.

    Args:
        path: UTF-8 text, on every line that is not blank a JSON object with fields of the
            objective, such as ``{"prefix": "A bird: ", "target": " it flies"}``.

    Returns:
        The items, which know their lines, so that messages can name them.

    Raises:
        OptionError: the file is missing or holds no item, or a line is no JSON object.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise OptionError(
            f"items {path}: {error.strerror}", expected="a JSONL file, one item a line"
        ) from error
    except UnicodeDecodeError as error:
        raise OptionError(f"items {path} is no UTF-8 text", expected="a JSONL file") from error
    found = tuple(
        _item(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not found:
        raise OptionError(f"items {path}: no line with an item", expected="at least one")
    return found


def with_items(options: dict[str, Any]) -> dict[str, Any]:
    """Replace the path of a file of items in what a run file says of an objective."""
    items = unwrapped(options.get("items"))
    if isinstance(items, (str, os.PathLike)):
        return {**options, "items": read_items(items)}
    return options


def _item(line: str, place: str) -> PlacedItem:
    try:
        value = load_json(line)
    except MarkupError as error:
        expected = error.expected or "a JSON object"
        raise OptionError(f"{place}: {error.problem}", expected=expected) from error
    if not isinstance(value, dict):
        raise OptionError(f"{place}: a {type(value).__name__}", expected="a JSON object")
    return PlacedItem(value, place)
