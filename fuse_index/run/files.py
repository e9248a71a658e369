"""Run files: YAML or JSON on disk, and what flags put over it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fuse_index.common.markup import MarkupError, load_json, load_yaml
from fuse_index.common.reading import shortened, shown
from fuse_index.errors import OptionError
from fuse_index.run.config import ModelConfig
from fuse_index.run.fields import unwrapped

MAX_BYTES = 16 << 20
"""Largest run file; those that people write have kilobytes."""


def load_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a run file; JSON by its suffix, else YAML.

    Raises:
        OptionError: it is missing or unreadable, a key stands twice, or it is no mapping.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise OptionError(
            f"run file {path}: {error.strerror}", expected="a YAML or JSON file"
        ) from error
    except UnicodeDecodeError as error:
        raise OptionError(f"run file {path} is no UTF-8 text", expected="YAML or JSON") from error
    if len(data) > MAX_BYTES:
        raise OptionError(f"run file {path}", expected=f"at most {MAX_BYTES:,} bytes")
    is_json = path.suffix.lower() == ".json"
    try:
        value = load_json(text) if is_json else load_yaml(text)
    except MarkupError as error:
        line = "" if error.line is None else f", line {error.line}"
        raise OptionError(
            f"run file {path}{line}: {error.problem}",
            expected=error.expected or ("JSON" if is_json else "YAML"),
        ) from error
    if not isinstance(value, dict):
        raise OptionError(
            f"run file {path} holds a {type(value).__name__}",
            expected="a mapping with models and objectives",
        )
    return value


TYPED = ("method", "search")
"""Sections with a field ``type``; they may stand as their type alone."""


FieldPath = str | tuple[str, ...]
"""A dotted path such as ``budget.steps``, or its names."""


def override(value: dict[str, Any], settings: Iterable[tuple[FieldPath, Any]]) -> None:
    """Put settings over what a file says, in place.

    A section's ``type`` that changes takes the section's other fields with it: they were meant for
    the old one.

    Args:
        value: what the file says.
        settings: paths such as ``budget.steps`` with their values; numbers in a path are positions
            in a list, and an objective can be named by its type. Fields may be written with ``-``
            for ``_``; the names of models are taken whole, dots and all.

    Raises:
        OptionError: a path leads nowhere.
    """
    for path, item in settings:
        _put(value, path, item)


def _put(value: dict[str, Any], given: FieldPath, item: Any) -> None:
    path = given if isinstance(given, str) else ".".join(given)
    names = _names(value, given) if isinstance(given, str) else list(given)
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


def _names(value: Mapping[str, Any], path: str) -> list[str]:
    """Split a dotted path; the name of a model in it stays whole."""
    section, dot, rest = path.partition(".")
    if section != "models" or not dot:
        return [_field(name) for name in path.split(".")]
    models = unwrapped(value.get("models"))
    name, field = _model_name(models if isinstance(models, Mapping) else {}, rest)
    return [section, name, *(map(_field, field.split(".")) if field else ())]


def _model_name(models: Iterable[str], text: str) -> tuple[str, str]:
    """Split ``NAME.FIELD`` or ``NAME``: a known name first, the longest, then by the field."""
    for spelled in (text, _field(text)):
        known = [name for name in models if f"{spelled}.".startswith(f"{name}.")]
        if known:
            name = max(known, key=len)
            return name, text[len(name) + 1 :]
    own = [field.name for field in fields(ModelConfig)]
    name, dot, field = text.rpartition(".")
    if dot and difflib.get_close_matches(_field(field), own, n=1):
        return name, field
    return text, ""


def _field(name: str) -> str:
    return name.replace("-", "_")


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
    if name.isdecimal() and len(name) < 10 and int(name) < len(here):
        return int(name)
    kinds = [item.get("type") if isinstance(item, Mapping) else None for item in here]
    if kinds.count(name) == 1:
        return kinds.index(name)
    raise OptionError(
        f"--{shortened(path)}: {shown(name)} is none of {len(here)} entries",
        expected=f"a number from 0 to {len(here) - 1}, or a type that occurs once",
    )
