"""The fields of a run file, from the dataclasses that hold them."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any, Union, get_args, get_origin

from fuse_index.objectives import OBJECTIVES, Objective
from fuse_index.run.captions import ROLES, CaptionConfig, ClipRole, LanguageRole
from fuse_index.run.config import (
    REGISTRIES,
    SECTIONS,
    ModelConfig,
    ObjectiveConfig,
    ProbeConfig,
    SearchConfig,
)
from fuse_index.run.fields import field_docs, field_types

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
        yield f"objectives[N], type {name}: {_summary(cls)}", rows
    yield "probe", field_rows(ProbeConfig)
    yield from describe_search(SearchConfig())


def describe_captions() -> Iterator[tuple[str, list[Row]]]:
    """Yield every section of a captioning file, as :func:`describe_fields` does."""
    for name, cls in ROLES.items():
        yield name, field_rows(cls)
    any_model = CaptionConfig(lm=LanguageRole(model="any"), clip=ClipRole(model="any"))
    yield from describe_search(any_model)


def describe_search(defaults: SearchConfig) -> Iterator[tuple[str, list[Row]]]:
    """Yield the sections that runs of every kind share, with the defaults of this kind."""
    for section, registry in REGISTRIES.items():
        for name, cls in registry.items():
            own = getattr(defaults, section)
            mark = " (the default)" if own.type == name else ""
            title = f"{section}, type {name}{mark}: {_summary(cls)}"
            yield title, field_rows(cls, own)
    for section, cls in SECTIONS.items():
        yield section, field_rows(cls, getattr(defaults, section))


def field_rows(cls: type, made: Any = None) -> list[Row]:
    """Return a row for every field of a dataclass.

    Args:
        cls: the dataclass.
        made: has the defaults to state, if it is one of them.
    """
    hints, docs = field_types(cls), field_docs(cls)
    return [
        (
            field.name,
            _type_text(hints[field.name]),
            _default_text(field, cls, made),
            _plain(docs[field.name]),
        )
        for field in fields(cls)
        if field.init
    ]


def _summary(cls: type) -> str:
    """The first line of a class's docstring."""
    return _plain((cls.__doc__ or "").strip().splitlines()[0])


def _plain(text: str) -> str:
    """A docstring without its markup."""
    return re.sub(r":\w+:`~?([^`]*)`|``?([^`]*)``?", lambda m: m[1] or m[2], text)


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
    names[ObjectiveConfig] = "objective"
    return names.get(hint, "path" if getattr(hint, "__name__", "") == "Path" else "any")


def _default_text(field: Field[Any], cls: type, made: Any) -> str:
    value = getattr(made, field.name) if type(made) is cls else field.default
    if value is MISSING and field.default_factory is not MISSING:
        value = field.default_factory()
    if value is MISSING:
        return "(required)"
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, Enum):
        return str(value.value)
    return str(value).lower() if isinstance(value, bool) else str(value)
