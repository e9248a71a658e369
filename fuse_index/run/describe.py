"""The fields of a run file, from the dataclasses that hold them."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from fuse_index.common.reading import field_docs, without_markup
from fuse_index.models.chat import Message
from fuse_index.objectives import OBJECTIVES, Objective
from fuse_index.run.captions import ROLES, CaptionConfig
from fuse_index.run.config import (
    ModelConfig,
    ObjectiveConfig,
    ProbeConfig,
    SearchConfig,
    default_of,
)
from fuse_index.run.fields import OneOf

Row = tuple[str, str, str, str]
"""Field, type, default, meaning."""


def describe_fields() -> Iterator[tuple[str, list[Row]]]:
    """Yield every section of a run file with its fields.

    Yields:
        The section's title, and a row for every field.
    """
    yield "models.NAME", field_rows(ModelConfig)
    shared = {field.name for field in fields(Objective)}
    yield (
        "objectives[N], of every type",
        [
            ("type", "text", "", "one of " + ", ".join(sorted(OBJECTIVES))),
            ("model", "text", "", "name of the model it is asked of"),
            *field_rows(Objective),
        ],
    )
    for name, cls in sorted(OBJECTIVES.items()):
        rows = [row for row in field_rows(cls) if row[0] not in shared]
        yield f"objectives[N], type {name}: {summary(cls)}", rows
    yield "probe", field_rows(ProbeConfig)
    yield from describe_search(SearchConfig)


def describe_captions() -> Iterator[tuple[str, list[Row]]]:
    """Yield every section of a captioning file, as :func:`describe_fields` does."""
    for name, cls in ROLES.items():
        yield name, field_rows(cls)
    yield from describe_search(CaptionConfig)


def describe_search(cls: type[SearchConfig]) -> Iterator[tuple[str, list[Row]]]:
    """Yield the sections that runs of every kind share, with the defaults of this kind."""
    hints = get_type_hints(cls, include_extras=True)
    own = {item.name: item for item in fields(cls)}
    for name in (item.name for item in fields(SearchConfig)):
        made, hint = default_of(own[name]), without_none(hints[name])
        choice = next((m for m in get_args(hint)[1:] if isinstance(m, OneOf)), None)
        if choice is None:
            yield name, field_rows(get_args(hint)[0] if get_args(hint) else hint, made)
            continue
        for kind, options in choice.types.items():
            mark = " (the default)" if getattr(made, "type", None) == kind else ""
            title = f"{name}, type {kind}{mark}: {summary(options)}"
            yield title, field_rows(options, made)


def without_none(hint: Any) -> Any:
    """Return what a field holds where it is not None."""
    options = [item for item in get_args(hint) if item is not type(None)]
    union = get_origin(hint) in (Union, types.UnionType)
    return options[0] if union and len(options) == 1 else hint


def field_rows(cls: type, made: Any = None) -> list[Row]:
    """Return a row for every field of a dataclass.

    Args:
        cls: the dataclass.
        made: has the defaults to state, if it is one of them.
    """
    hints, docs = get_type_hints(cls), field_docs(cls)
    return [
        (
            field.name,
            _type_text(hints[field.name]),
            _default_text(field, cls, made),
            without_markup(docs[field.name]),
        )
        for field in fields(cls)
        if field.init
    ]


def summary(cls: type) -> str:
    """The first line of a class's docstring."""
    return without_markup((cls.__doc__ or "").strip().splitlines()[0])


def _type_text(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = [_type_text(item) for item in arguments if item is not type(None)]
        return " or ".join(options)
    if origin in (tuple, list):
        return f"list of {_type_text(arguments[0])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(str(item.value) for item in hint)
    names = {str: "text", int: "number", float: "number", bool: "true, false"}
    names |= {ObjectiveConfig: "objective", Message: "message"}
    return names.get(hint, "path" if getattr(hint, "__name__", "") == "Path" else "any")


def _default_text(field: Field[Any], cls: type, made: Any) -> str:
    value = getattr(made, field.name) if type(made) is cls else default_of(field)
    if value is MISSING:
        return "(required)"
    if field.name == getattr(cls, "wanted", ""):
        return "(required, or items)"
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, Enum):
        return str(value.value)
    return str(value).lower() if isinstance(value, bool) else str(value)
