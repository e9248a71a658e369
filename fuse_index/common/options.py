"""Options as frozen dataclasses that check themselves: one decorator, one set of field types.

Types, ranges and choices are checked by pydantic; an :class:`OptionError` names the option, the
value given and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, fields
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass as _dataclass
from typing_extensions import dataclass_transform

from fuse_index.common.bounds import (
    MAX_COUNT,
    MAX_NUMBER,
    MAX_SEED,
    MAX_WIDTH,
    MAX_WORD_TOKENS,
)
from fuse_index.common.reading import CALL_ERRORS, FlagText, expected_by, shown, unknown_name
from fuse_index.errors import FuseIndexError, OptionError

Class = TypeVar("Class", bound=type)

Count = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
"""A whole number, at least 1."""
Natural = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
"""A whole number, at least 0."""
Width = Annotated[int, Field(strict=True, ge=1, le=MAX_WIDTH)]
"""How many of something are held at once, at least 1."""
NaturalWidth = Annotated[int, Field(strict=True, ge=0, le=MAX_WIDTH)]
"""How many of something are held at once, perhaps none."""
TokenLimit = Annotated[int, Field(strict=True, ge=1, le=MAX_WORD_TOKENS)]
"""Tokens of a word."""
Seed = Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)]
"""What decides random draws."""
Positive = Annotated[float, Field(strict=True, gt=0, le=MAX_NUMBER)]
"""A number greater than 0."""
NonNegative = Annotated[float, Field(strict=True, ge=0, le=MAX_NUMBER)]
"""A number, at least 0."""
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
"""A number greater than 0, at most 1."""
Flag = Annotated[bool, Field(strict=True)]
"""True or false, and nothing that stands for them."""
Number = Annotated[float, Field(strict=True, ge=-MAX_NUMBER, le=MAX_NUMBER)]
"""A finite number."""
Seconds = Annotated[float, Field(strict=True, gt=0, le=math.inf)]
"""A time; infinity is no limit."""
Operations = Annotated[float, Field(strict=True, gt=0, le=math.inf)]
"""A number of floating-point operations; infinity is no limit."""
Margin = Annotated[float, Field(strict=True, ge=0, le=math.inf)]
"""A difference, at least 0; infinity is never reached."""
Level = Annotated[float, Field(strict=True, ge=-math.inf, le=math.inf)]
"""A number that something is compared with; infinity is never, or always, reached."""

_CONFIG = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=True, extra="forbid")


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
        if not hasattr(cls, "__pydantic_decorators__"):
            for name in ("_read_field", "_require_fields"):
                setattr(cls, name, vars(_Checks)[name])
        made: Any = _dataclass(frozen=True, kw_only=kw_only, config=_CONFIG)(cls)
        checked = made.__init__

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            try:
                checked(self, *args, **kwargs)
            except ValidationError as error:
                names = [item.name for item in fields(made)]
                raise option_error(error, label or getattr(cls, "type", ""), names) from None

        __init__.__wrapped__ = checked  # type: ignore[attr-defined]
        made.__init__ = __init__
        return made  # type: ignore[no-any-return]

    return decorate


class _Checks:
    """Validators that every class of options gets."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _read_field(cls, value: Any, read: Any) -> Any:
        """Read text of the command line by what fits, and one value as a list of one."""
        first: ValidationError | None = None
        for meaning in value.readings() if isinstance(value, FlagText) else (value,):
            try:
                return _read_value(meaning, read)
            except ValidationError as error:
                first = first or error
        assert first is not None
        raise first

    @model_validator(mode="before")
    @classmethod
    def _require_fields(cls, value: Any) -> Any:
        """Refuse a mapping with a name that is no field, saying which names are."""
        if isinstance(value, dict):
            known = [item.name for item in fields(cls) if item.init]  # type: ignore[arg-type]
            for name in value:
                if name not in known:
                    raise unknown_name(name, known, "field")
        return value


def _read_value(value: Any, read: Any) -> Any:
    try:
        return read(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        if found["type"] == "tuple_type" and not isinstance(value, (dict, list, tuple)):
            return read((value,))
        if found["type"] == "int_type" and isinstance(value, float) and value.is_integer():
            return read(int(value))
        raise


def option_error(error: ValidationError, label: str = "", names: Sequence[str] = ()) -> Exception:
    """Return the first problem pydantic found in a call as an error of the package.

    Args:
        error: of a dataclass.
        label: names the options in the message.
        names: of the fields, in the order of positional arguments.

    Returns:
        An :class:`OptionError`; a ``TypeError`` where a call itself is wrong, as for any dataclass.
    """
    found: Any = error.errors(include_url=False)[0]
    inner = found.get("ctx", {}).get("error")
    if isinstance(inner, FuseIndexError):
        return inner
    first, *rest = found["loc"] or ("",)
    if isinstance(first, int) and first < len(names):
        first = names[first]
    name = ".".join(map(str, (first, *rest)))
    if found["type"] in CALL_ERRORS and rest:  # of options inside these
        return OptionError(f"{label}: no {name}", expected=f"{rest[-1]} to be given")
    if found["type"] in CALL_ERRORS:
        return TypeError(f"{label or error.title}: {name}: {found['msg']}")
    before = f"{label}: " if label else ""
    given = found["input"]
    if isinstance(given, str):
        return OptionError(f"{before}{name} {shown(given)}", expected=expected_by(found))
    return OptionError(f"{before}{name}={shown(given)}", expected=expected_by(found))


__all__ = [
    "Count",
    "Flag",
    "Level",
    "Margin",
    "Natural",
    "NaturalWidth",
    "NonNegative",
    "Number",
    "Operations",
    "Positive",
    "Seconds",
    "Seed",
    "Share",
    "TokenLimit",
    "Width",
    "field",
    "option_error",
    "options",
]
