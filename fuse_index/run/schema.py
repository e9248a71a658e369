"""The JSON schema of run files, for editors that complete and check them."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from fuse_index.common.reading import field_docs, without_markup
from fuse_index.run.config import SearchConfig


class _RunSchema(GenerateJsonSchema):
    """Adds what docstrings say, and one value where a list is expected."""

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> dict[str, Any]:
        found = super().dataclass_schema(schema)
        cls: Any = schema["cls"]
        found["description"] = without_markup((inspect.getdoc(cls) or "").partition("\n")[0])
        for name, text in field_docs(cls).items():
            if text:
                found["properties"][name]["description"] = without_markup(text)
        return found

    def tuple_schema(self, schema: core_schema.TupleSchema) -> dict[str, Any]:
        found = super().tuple_schema(schema)
        return {"anyOf": [found["items"], found]} if found.get("items") else found

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


def run_schema(cls: type[SearchConfig]) -> dict[str, Any]:
    """Return the JSON schema of the files of one kind of run.

    Args:
        cls: :class:`fuse_index.run.config.RunConfig` or another kind of run.

    Returns:
        A schema of draft 2020-12.
    """
    schema = TypeAdapter(cls).json_schema(schema_generator=_RunSchema)
    return {"$schema": _RunSchema.schema_dialect, **schema}
