"""Run files: YAML or JSON on disk, and what flags put over it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fuse_index.common.reading import load_yaml
from fuse_index.errors import OptionError
from fuse_index.run.fields import unwrapped


def load_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a run file; JSON by its suffix, else YAML.

    Raises:
        OptionError: it is missing or unreadable, or no mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"run file {path}: {error.strerror}", expected="a YAML or JSON file"
        ) from error
    except UnicodeDecodeError as error:
        raise OptionError(f"run file {path} is no UTF-8 text", expected="YAML or JSON") from error
    if path.suffix.lower() == ".json":
        try:
            value = json.loads(text)
        except ValueError as error:
            raise OptionError(f"run file {path}: {error}", expected="JSON") from error
    else:
        value = parse_text_of(path, text)
    if not isinstance(value, dict):
        raise OptionError(
            f"run file {path} holds a {type(value).__name__}",
            expected="a mapping with models and objectives",
        )
    return value


def parse_text_of(path: Path, text: str) -> Any:
    """Read a file's text as YAML; the message names the file and the line, not the text."""
    import yaml  # noqa: PLC0415

    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "not YAML"
        raise OptionError(f"run file {path}{line}: {problem}", expected="YAML") from error


TYPED = ("method", "search")
"""Sections with a field ``type``; they may stand as their type alone."""


def override(value: dict[str, Any], settings: Iterable[tuple[str, Any]]) -> None:
    """Put settings over what a file says, in place.

    A section's ``type`` that changes takes the section's other fields with it: they were meant for
    the old one.

    Args:
        value: what the file says.
        settings: dotted paths such as ``budget.steps`` with their values; numbers in a path are
            positions in a list, and an objective can be named by its type.

    Raises:
        OptionError: a path leads nowhere.
    """
    for path, item in settings:
        _put(value, path, item)


def _put(value: dict[str, Any], path: str, item: Any) -> None:
    names = path.split(".")
    if not all(names):
        raise OptionError(f"--set {path}", expected="a path such as budget.steps")
    here: Any = value
    for depth, name in enumerate(names[:-1]):
        here = _descend(here, name, ".".join(names[: depth + 1]))
    last = names[-1]
    if isinstance(here, list):
        here[_position(here, last, path)] = item
        return
    if not isinstance(here, dict):
        raise OptionError(f"--{path}", expected=f"a mapping in {'.'.join(names[:-1])}")
    if last == "type" and str(here.get("type", item)) != str(item):
        kept = {"model": here["model"]} if "model" in here else {}
        here.clear()
        here.update(kept)
    here[last] = item


def _descend(here: Any, name: str, path: str) -> Any:
    if isinstance(here, list):
        return here[_position(here, name, path)]
    inner = unwrapped(here.get(name)) if isinstance(here, dict) else None
    if inner is None or not isinstance(inner, (dict, list)):
        # a section that stands as one value gets a mapping around it
        plain = "type" if path in TYPED else "model" if path.startswith("models.") else ""
        inner = {plain: inner} if plain and inner is not None else {}
    if not isinstance(here, dict):
        raise OptionError(f"--{path}", expected="a section of a run file")
    here[name] = inner
    return inner


def _position(here: list[Any], name: str, path: str) -> int:
    """Where in a list a name points: a number, or the type of one of its mappings."""
    if name.isdecimal() and int(name) < len(here):
        return int(name)
    kinds = [item.get("type") if isinstance(item, Mapping) else None for item in here]
    if kinds.count(name) == 1:
        return kinds.index(name)
    raise OptionError(
        f"--{path}: {name!r} is none of {len(here)} entries",
        expected=f"a number from 0 to {len(here) - 1}, or a type that occurs once",
    )
