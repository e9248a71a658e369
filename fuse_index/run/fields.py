"""Sections of a run file for pydantic: short forms, and one of several types of options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fuse_index.common.reading import FlagText, unknown_name


@dataclass(frozen=True)
class Section:
    """Annotation of options that are a section of a file.

    Attributes:
        short: the field that a value without a name stands for, or "".
    """

    short: str = ""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        inner = handler.generate_schema(source)
        return core_schema.no_info_before_validator_function(self._read, inner)

    def _read(self, value: Any) -> Any:
        value = unwrapped(value)
        if not self.short or isinstance(value, Mapping) or is_dataclass(value):
            return value
        return {self.short: value}

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        whole = handler(schema)
        if not self.short:
            return whole
        field = handler.resolve_ref_schema(whole)["properties"][self.short]
        short = {name: field[name] for name in ("type", "anyOf") if name in field}
        return {"anyOf": [short, whole]}


class OneOf:
    """Annotation of options of several types; the field ``type`` says which they are.

    A type name alone stands for that type with its defaults.

    Args:
        types: classes of options by their type name.
        beside: properties that a mapping may have beside those of its type, for the JSON schema.
        default: the type of a mapping that names none; "" refuses it.
    """

    def __init__(
        self,
        types: Mapping[str, type],
        beside: Mapping[str, Any] | None = None,
        default: str = "",
    ) -> None:
        self.types = types
        self.beside = dict(beside or {})
        self.default = default

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices: dict[Any, Any] = {
            f"({name})": core_schema.no_info_before_validator_function(
                _without_type, handler.generate_schema(cls)
            )
            for name, cls in self.types.items()
        }
        union = core_schema.tagged_union_schema(choices, lambda value: f"({_type_of(value)})")
        return core_schema.no_info_before_validator_function(self._read, union)

    def _read(self, value: Any) -> Any:
        value = unwrapped(value)
        if is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            value = {"type": value}
        if self.default and "type" not in value:
            value = {"type": self.default, **value}
        name = value.get("type")
        if str(name) not in self.types:
            raise unknown_name(name if name is None else str(name), self.types, "type")
        return value

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found = handler(schema)
        for (name, cls), choice in zip(self.types.items(), found["oneOf"], strict=True):
            whole = handler.resolve_ref_schema(choice)
            if wanted := getattr(cls, "wanted", ""):
                whole["anyOf"] = [{"required": [wanted]}, {"required": ["items"]}]
            own = whole.get("properties", {})
            whole["properties"] = {"type": {"const": name}, **self.beside, **own}
            named = [] if name == self.default else ["type"]
            whole["required"] = [*named, *whole.get("required", [])]
        names = {"enum": list(self.types)}
        return {"anyOf": [names, *found["oneOf"]]}


def _type_of(value: Any) -> str:
    return str(value["type"] if isinstance(value, Mapping) else value.type)


def _without_type(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: item for name, item in value.items() if name != "type"}
    return value


def unwrapped(value: Any) -> Any:
    """Return a mapping or list that the command line writes in brackets; else the value.

    Raises:
        OptionError: a key in it stands twice, or it holds what no options are.
    """
    if isinstance(value, FlagText) and value[:1] in ("{", "["):
        return value.structure()
    return value
