"""Options read from files and the command line: what values mean, and errors that name the place.

Types and ranges are those of the dataclasses (:mod:`fuse_index.common.options`), checked by
pydantic; here are the texts of a command line, the places in a file, and what docstrings say.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from fuse_index.common.markup import MarkupError, load_yaml
from fuse_index.errors import FuseIndexError, OptionError

Choice = TypeVar("Choice", bound=Enum)
Options = TypeVar("Options")

CALL_ERRORS = (
    "missing",
    "missing_argument",
    "missing_keyword_only_argument",
    "unexpected_keyword_argument",
    "unexpected_positional_argument",
    "multiple_argument_values",
)
"""Errors of a call of a dataclass itself."""
_LIMITS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_UNKNOWN = "unknown_name"
_UNION_MEMBERS = ("int", "str", "float", "bool", "constrained-int", "constrained-str")
"""What pydantic adds to the location of an error inside a union."""


class FlagText(str):
    """A value from the command line: text whose meaning depends on what the field holds."""

    __slots__ = ()

    def readings(self) -> Iterator[Any]:
        """Yield what the text may mean: a value as YAML reads it, or the text itself."""
        try:
            value = None if self.lower() == "none" else load_yaml(self)
        except MarkupError:
            value = ""
        if not isinstance(value, str):
            yield value
        yield str(self)

    def structure(self) -> Any:
        """Return the mapping or list that the text is; the text itself where it is none.

        Raises:
            OptionError: a key stands twice, or it holds what no options are.
        """
        try:
            return load_yaml(self)
        except MarkupError as error:
            if not error.expected:
                return str(self)
            raise OptionError(
                f"{shortened(self)}: {error.problem}", expected=error.expected
            ) from None


def shortened(text: str, most: int = 80) -> str:
    """Return a text of at most so many characters, for a message."""
    return text if len(text) <= most else text[: most - 3] + "..."


def shown(value: Any) -> str:
    """Return a value as a message shows it, whatever its size."""
    try:
        return shortened(repr(value.value if isinstance(value, Enum) else value))
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"


def unknown_name(name: Any, known: Iterable[str], what: str) -> PydanticCustomError:
    """Return the error of a validator that was given a name it does not know.

    Args:
        name: the name.
        known: the names it knows.
        what: is named, such as ``"field"``.
    """
    context = {"name": name, "known": list(known), "what": what}
    return PydanticCustomError(_UNKNOWN, "{what} {name} is unknown", context)


def require_known(name: Any, known: Iterable[str], what: str) -> None:
    """Refuse a name that is none of those known, suggesting the one it is like.

    Raises:
        OptionError: it is not known.
    """
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(str(name)[:80], names, n=1, cutoff=0.5)
    raise OptionError(
        f"{what} {shortened(repr(name))} is unknown",
        expected="one of " + ", ".join(names) if names else "none",
        remedy=f"did you mean {near[0]!r}?" if near else "",
    )


def choose(kind: type[Choice], value: Any, name: str) -> Choice:
    """Return the member of an enum that a value names.

    Args:
        kind: the enum.
        value: a member or its value.
        name: what was given, such as ``--metric``, for the message.

    Raises:
        OptionError: it is none; the message lists them.
    """
    try:
        return kind(value)
    except ValueError:
        expected = "one of " + ", ".join(str(member.value) for member in kind)
        raise OptionError(f"{name} {shortened(str(value))}", expected=expected) from None


def read_options(cls: type[Options], value: Any, where: str = "") -> Options:
    """Build options from what a file says.

    Args:
        cls: a class made by :func:`fuse_index.common.options.options`.
        value: a mapping of its fields.
        where: what to call the place in messages, such as ``budget``.

    Raises:
        OptionError: a name is unknown or missing, or a value is of another type or outside its
            range.
    """
    try:
        return TypeAdapter(cls).validate_python(value)
    except ValidationError as error:
        raise file_error(error, where) from None


def file_error(error: ValidationError, where: str = "") -> FuseIndexError:
    """Return the first problem pydantic found in what a file says as an error of the package.

    Args:
        error: of a :class:`pydantic.TypeAdapter`.
        where: the place in the file that was read, such as ``budget``.
    """
    problems: list[Any] = error.errors(include_url=False)
    found = problems[0]
    context = found.get("ctx", {})
    if isinstance(context.get("error"), FuseIndexError):
        return _placed(context["error"], _place(found["loc"], where))
    *above, last = _place(found["loc"], where)
    parent, path = "".join(above), "".join([*above, last]).removeprefix(".")
    if found["type"] == _UNKNOWN:
        try:
            what = f"{path}: {context['what']}" if path else "section"
            if context["name"] is None:
                expected = "one of " + ", ".join(context["known"])
                return OptionError(f"{path}: no {context['what']}", expected=expected)
            require_known(context["name"], context["known"], what)
        except OptionError as unknown:
            return unknown
    name = last.removeprefix(".")
    if found["type"] in CALL_ERRORS:
        return OptionError(
            f"{parent.removeprefix('.')}: no {name!r}", expected=f"{name} to be given"
        )
    if found["type"] in _LIMITS:
        return OptionError(
            f"{parent.removeprefix('.')}: {name}={shown(found['input'])}",
            expected=expected_by(found),
        )
    same = [item for item in problems if _place(item["loc"], where) == [*above, last]]
    expected = " or ".join(dict.fromkeys(map(expected_by, same)))
    remedy = "quote it" if found["type"] == "string_type" and len(same) == 1 else ""
    if isinstance(found["input"], (list, tuple, dict)):
        remedy = ""
    return OptionError(f"{path}: {shown(found['input'])}", expected=expected, remedy=remedy)


def _placed(error: FuseIndexError, place: Sequence[str]) -> FuseIndexError:
    """Return an error of options with their place in the file before it, where their type stands.

    Args:
        error: what the options say of themselves, such as ``label: no 'label'``.
        place: parts of the place, such as ``["", ".objectives", "[0]", " (label)"]``.
    """
    kind = place[-1].strip(" ()")
    if place[-1] != f" ({kind})" or not error.given.startswith(f"{kind}: "):
        return error
    given = "".join(place).removeprefix(".") + error.given.removeprefix(kind)
    return type(error)(given, expected=error.expected, remedy=error.remedy)


def _place(location: Iterable[Any], where: str) -> list[str]:
    """Parts of a place in a file, such as ``["", ".objectives", "[0]", " (fluency)"]``."""
    parts = [where]
    for part in location:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif part.startswith("("):
            parts.append(f" {part}")
        elif part not in (*_UNION_MEMBERS, "objective"):
            parts.append(f".{part}")
    return parts


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def expected_by(found: Any) -> str:
    """What pydantic would have accepted, in our words."""
    limits = found.get("ctx", {})
    kind = found["type"]
    if isinstance(found["input"], float) and math.isnan(found["input"]):
        return "a finite number"
    if kind == "greater_than_equal":
        return f"at least {_number(limits['ge'])}"
    if kind == "greater_than":
        return f"more than {_number(limits['gt'])}"
    if kind == "less_than_equal":
        return f"at most {_number(limits['le'])}"
    if kind == "less_than":
        return f"less than {_number(limits['lt'])}"
    if kind in ("enum", "literal_error"):
        return "one of " + str(limits["expected"]).replace("'", "").replace(" or ", ", ")
    return _WORDS.get(kind.split("_")[0], str(found["msg"]))


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "path": "a path",
    "callable": "a callable",
    "tuple": "a list",
    "dict": "a mapping of names to values",
    "dataclass": "a mapping of names to values",
}
"""What a field holds, by the first word of pydantic's error types."""


@cache
def field_docs(cls: Any) -> dict[str, str]:
    """Return what the docstrings of a dataclass and its bases say about each field."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _parse_attributes(inspect.cleandoc(base.__doc__ or ""))
    return {field.name: found.get(field.name, "") for field in fields(cls)}


def without_markup(text: str) -> str:
    """Return the text of a docstring without its markup."""
    return re.sub(r":\w+:`~?([^`]*)`|``?([^`]*)``?", lambda m: m[1] or m[2], text)


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
