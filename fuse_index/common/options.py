"""Options as frozen dataclasses that check themselves: one decorator, one set of field types.

Types, ranges and choices are checked by pydantic; an :class:`OptionError` names the option, the
value given and what was expected.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as _dataclass
from typing_extensions import dataclass_transform

from fuse_index.errors import FuseIndexError, OptionError

Class = TypeVar("Class", bound=type)

Count = Annotated[int, Field(strict=True, ge=1)]
"""A whole number, at least 1."""
Natural = Annotated[int, Field(strict=True, ge=0)]
"""A whole number, at least 0."""
Positive = Annotated[float, Field(strict=True, gt=0)]
"""A number greater than 0."""
NonNegative = Annotated[float, Field(strict=True, ge=0)]
"""A number, at least 0."""
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
"""A number greater than 0, at most 1."""

_CONFIG = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=True, extra="forbid")
_CALL_ERRORS = (
    "missing",
    "missing_argument",
    "missing_keyword_only_argument",
    "unexpected_keyword_argument",
    "unexpected_positional_argument",
    "multiple_argument_values",
)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def options(*, label: str = "", kw_only: bool = False) -> Any:
    """Make a class a frozen dataclass whose fields are checked on construction.

    ``__post_init__`` checks what concerns several fields at once. Strings become enums; a field
    keeps its declared type otherwise.

    Args:
        label: names the options in messages; by default the class attribute ``type``.
        kw_only: whether all fields are keyword-only.

    Raises (on construction):
        OptionError: a value is of another type, outside its range, or no choice.
    """

    def decorate(cls: Class) -> Class:
        made: Any = _dataclass(frozen=True, kw_only=kw_only, config=_CONFIG)(cls)
        checked = made.__init__

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            try:
                checked(self, *args, **kwargs)
            except ValidationError as error:
                raise option_error(error, label or getattr(cls, "type", "")) from None

        __init__.__wrapped__ = checked  # type: ignore[attr-defined]
        made.__init__ = __init__
        return made  # type: ignore[no-any-return]

    return decorate


def option_error(error: ValidationError, label: str = "") -> Exception:
    """Return the first problem pydantic found as an error of ours.

    Args:
        error: of a dataclass or a :class:`pydantic.TypeAdapter`.
        label: names the options in the message.

    Returns:
        An :class:`OptionError`; a ``TypeError`` where a call itself is wrong, as for any dataclass.
    """
    found: Any = error.errors(include_url=False)[0]
    inner = found.get("ctx", {}).get("error")
    if isinstance(inner, FuseIndexError):
        return inner
    name = ".".join(str(part) for part in found["loc"])
    if found["type"] in _CALL_ERRORS:
        return TypeError(f"{label or error.title}: {name}: {found['msg']}")
    before = f"{label}: " if label else ""
    given = found["input"]
    if isinstance(given, str):
        return OptionError(f"{before}{name} {given!r}", expected=_expected(found))
    if isinstance(given, Enum):
        given = given.value
    return OptionError(f"{before}{name}={given}", expected=_expected(found))


def _expected(found: Any) -> str:
    """What pydantic would have accepted, in our words."""
    limits = found.get("ctx", {})
    kind = found["type"]
    if kind == "greater_than_equal":
        return f"at least {limits['ge']:g}"
    if kind == "greater_than":
        return f"more than {limits['gt']:g}"
    if kind == "less_than_equal":
        return f"at most {limits['le']:g}"
    if kind == "less_than":
        return f"less than {limits['lt']:g}"
    if kind in ("enum", "literal_error"):
        return "one of " + str(limits["expected"]).replace("'", "").replace(" or ", ", ")
    words = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    return words.get(kind.split("_")[0], str(found["msg"]))


__all__ = [
    "Count",
    "Natural",
    "NonNegative",
    "Positive",
    "Share",
    "field",
    "option_error",
    "options",
]
