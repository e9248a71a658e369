"""Dataclasses from what a file or a flag says: types checked, unknown names with a close match."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from fuse_index.errors import OptionError

Options = TypeVar("Options")


class FlagText(str):
    """A value from the command line: text whose meaning depends on what the field holds."""

    __slots__ = ()


def read_options(
    cls: type[Options],
    value: Any,
    where: str,
    *,
    shorthand: str = "",
    base: Options | None = None,
) -> Options:
    """Build a dataclass from a mapping.

    Args:
        cls: the dataclass; it validates ranges itself, here only names and types are checked.
        value: a mapping of its fields, or None for all defaults.
        where: what to call the place in messages, such as ``budget``.
        shorthand: field that a plain value stands for.
        base: has the fields that the mapping leaves out; by default the dataclass's own defaults.

    Raises:
        OptionError: a field is unknown, missing, or of another type.
    """
    if value is None:
        value = {}
    if shorthand and not isinstance(value, Mapping):
        value = {shorthand: value}
    if isinstance(value, FlagText):
        value = parse_text(value, where)
    if not isinstance(value, Mapping):
        raise OptionError(f"{where}: {_show(value)}", expected="a mapping of names to values")
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for name in value:
        require_known(name, known, f"{where}: field")
    missing = [n for n, f in known.items() if n not in value and _required(f)]
    if missing and base is None:
        raise OptionError(f"{where}: no {missing[0]!r}", expected=f"{missing[0]} to be given")
    hints = field_types(cast(Any, cls))
    given = {n: convert(v, hints[n], f"{where}.{n}") for n, v in value.items()}
    return cls(**given) if base is None else replace(base, **given)  # type: ignore[type-var]


def require_known(name: Any, known: Iterable[str], what: str) -> None:
    """Refuse a name that is none of those known, suggesting the one it is like.

    Raises:
        OptionError: it is not known.
    """
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    raise OptionError(
        f"{what} {name!r} is unknown",
        expected="one of " + ", ".join(names) if names else "none",
        remedy=f"did you mean {near[0]!r}?" if near else "",
    )


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


@cache
def field_types(cls: Any) -> dict[str, Any]:
    """Return the type of every field; ``Any`` for one that only type checkers can resolve."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        space = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
        for name, text in inspect.get_annotations(base).items():
            try:
                found[name] = eval(text, dict(space)) if isinstance(text, str) else text
            except NameError:
                found[name] = Any
    return {field.name: found.get(field.name, Any) for field in fields(cls)}


def convert(value: Any, hint: Any, where: str) -> Any:
    """Turn a value into what a field holds.

    Args:
        value: from YAML, JSON or a flag.
        hint: the field's type.
        where: the field, for messages.

    Raises:
        OptionError: it cannot be turned into that.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if isinstance(value, FlagText) and hint is not str:
        value = _plain_flag(value, hint, origin, where)
    if hint is Any or hint is None:
        return value
    if origin is Literal:
        return _choice(value, arguments, where)
    if origin in (tuple, list, Sequence):
        return _convert_list(value, arguments, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(_choice(value, [item.value for item in hint], where))
    if is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        return read_options(hint, value, where)  # type: ignore[arg-type]
    return _convert_scalar(value, hint, where)


def _convert_union(value: Any, arguments: Sequence[Any], where: str) -> Any:
    if type(None) in arguments and (value is None or _says_none(value)):
        return None
    options = [item for item in arguments if item is not type(None)]
    # numbers before text: "1" from the command line is a number where one may stand
    options.sort(key=lambda item: item is str)
    if isinstance(value, FlagText) and str in options and value[:1] not in ("[", "{"):
        options = [item for item in options if get_origin(item) is None]
    problems = []
    for option in options:
        try:
            return convert(value, option, where)
        except OptionError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    expected = " or ".join(error.expected for error in problems)
    raise OptionError(f"{where}: {_show(value)}", expected=expected)


def _says_none(value: Any) -> bool:
    return isinstance(value, FlagText) and value.lower() in ("none", "null")


def _plain_flag(value: FlagText, hint: Any, origin: Any, where: str) -> Any:
    """Text from the command line as YAML would read it, or a list of one."""
    if origin in (tuple, list, Sequence) and value[:1] != "[":
        return [FlagText(value)]
    if isinstance(hint, type) and issubclass(hint, (Enum, Path)):
        return str(value)
    return parse_text(value, where)


def _convert_list(value: Any, arguments: Sequence[Any], where: str) -> tuple[Any, ...]:
    """A list, or one value that stands for a list of one."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    item_type = arguments[0] if arguments else Any
    return tuple(convert(item, item_type, f"{where}[{i}]") for i, item in enumerate(items))


def _choice(value: Any, choices: Iterable[Any], where: str) -> Any:
    known = list(choices)
    if value not in known:
        raise OptionError(
            f"{where}: {_show(value)}", expected="one of " + ", ".join(map(str, known))
        )
    return value


def _convert_scalar(value: Any, hint: Any, where: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and number and (isinstance(value, int) or value.is_integer()):
        return int(value)
    if hint is float and (number or isinstance(value, str)):
        with suppress(ValueError, OverflowError):  # YAML 1.1 reads 1e-3 as text
            found = float(value)
            if not math.isnan(found):
                return found
    if hint is str and isinstance(value, str):
        return str(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    names = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}
    expected = names.get(hint, "a text")
    remedy = "quote it" if hint is str and not isinstance(value, (list, Mapping)) else ""
    raise OptionError(f"{where}: {_show(value)}", expected=expected, remedy=remedy)


def parse_text(text: str, where: str) -> Any:
    """Read a value as YAML.

    Raises:
        OptionError: it is not.
    """
    import yaml  # noqa: PLC0415

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(
            f"{where}: {text!r}", expected=f"a value as in YAML ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _show(value: Any) -> str:
    text = repr(str(value)) if isinstance(value, FlagText) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


@cache
def field_docs(cls: Any) -> dict[str, str]:
    """Return what the docstrings of a dataclass and its bases say about each field."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _parse_attributes(inspect.cleandoc(base.__doc__ or ""))
    return {field.name: found.get(field.name, "") for field in fields(cls)}


def _parse_attributes(text: str) -> dict[str, str]:
    """The section ``Attributes:`` (or ``Args:``) of a Google docstring, by name."""
    found: dict[str, str] = {}
    name, inside = "", False
    for line in text.splitlines():
        if not line.startswith(" ") and line.strip():
            inside = line.strip() in ("Attributes:", "Args:")
            continue
        match = re.match(r"    (\w+): (.*)", line)
        if inside and match is not None:
            name = match[1]
            found[name] = match[2].strip()
        elif inside and name and line.strip():
            found[name] += " " + line.strip()
    return found
