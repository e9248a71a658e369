"""JSON from untrusted files: depth and number of values before parsing, then types."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import NotRequired, TypedDict

from fuse_index.common.stored import (
    EXACT,
    MAX_DEPTH,
    SchemaError,
    Whole,
    at_most,
    check_schema,
    parse_json,
)
from tests.bundle.test_manifest import json_values


@given(json_values, st.booleans())
def test_what_json_writes_is_read(value, ascii_only):
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.text(alphabet='[]{},:"\\\\ae'))
def test_brackets_in_texts_do_not_count(text):
    nested = [text, {text: [text]}]
    assert parse_json(json.dumps(nested).encode(), most_values=5) == nested


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deeply: 65 levels, more th"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested too deeply: 70 levels, more than 64"),
        (b"[" * 3_000_000, "nested too deeply: 3000000 levels"),
        (b"[" + b"1," * 40 + b"1]", "41 values, more than 40"),
        (b'{"a": "\\ud800"}', "no valid Unicode: surrogates not allowed"),
        (b'{"a": "\xff"}', "no valid Unicode: invalid start byte"),
        (b"9" * 5000, "number 9{80} is out of range"),
        (b"-1e999", "number -1e999 is out of range"),
        (b"[Infinity]", "Infinity is not a JSON number"),
        (b'{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (b'["a]', "Unterminated string"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text, most_values=40)


class Inner(TypedDict):
    __pydantic_config__ = EXACT

    size: Whole


class Outer(TypedDict):
    __pydantic_config__ = EXACT

    name: str
    items: Annotated[list[Inner], at_most(2)]
    more: NotRequired[dict[str, int]]


@pytest.mark.parametrize(
    ("value", "message", "expected"),
    [
        ([], " has the wrong type", "an object"),
        ({"name": "a"}, "lacks ['items']", ""),
        ({"name": "a", "items": [], "x": 1, "b": 2}, "has unknown keys ['b', 'x']", ""),
        ({"name": 1, "items": []}, "name has the wrong type", "text"),
        ({"name": "a", "items": {}}, "items has the wrong type", "a list"),
        ({"name": "a", "items": [{}]}, "items[0] lacks ['size']", ""),
        ({"name": "a", "items": [{"size": True}]}, "items[0]['size'] is True", "a whole number"),
        ({"name": "a", "items": [{"size": -1}]}, "items[0]['size'] is -1", "at least 0"),
        ({"name": "a", "items": [1, 2, 3]}, "items has 3 items, more than 2", ""),
        ({"name": "a", "items": [], "more": {"b": 1.0}}, "more['b'] is 1.0", "a whole number"),
    ],
)
def test_what_does_not_fit_a_schema(value, message, expected):
    with pytest.raises(SchemaError) as caught:
        check_schema(Outer, value)
    assert (str(caught.value), caught.value.expected) == (message, expected)
