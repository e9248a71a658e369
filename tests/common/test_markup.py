"""YAML and JSON from people: what is read, and what is refused with its key and line."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.common.markup import MAX_DEPTH, MarkupError, load_json, load_yaml

LOADERS = pytest.mark.parametrize("load", [load_yaml, load_json])


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3\nb: 0x10\nc: yes\nd: ~", {"a": 1e-3, "b": 16, "c": True, "d": None}),
        ("2.5: x\nno: y\n2024-01-01: z", {"2.5": "x", "no": "y", "2024-01-01": "z"}),
        ("date: 2024-13-45\nsign: =", {"date": "2024-13-45", "sign": "="}),
        ("a: &b {x: 1}\nc: {<<: *b, x: 2, y: 3}", {"a": {"x": 1}, "c": {"x": 2, "y": 3}}),
        ("[1, 2.5, .inf, text]", [1, 2.5, float("inf"), "text"]),
        ("", None),
    ],
)
def test_what_yaml_means(text, value):
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3", 3, "key 'a' stands twice, first in line 1"),
        ("{a: 1, a: 2}", 1, "key 'a' stands twice, first in the same line"),
        ("a:\n  - x: 1\n    'x': 2", 3, "key 'x' stands twice, first in line 2"),
        ("a: &k {}\nb:\n  <<: *k\n  <<: *k", 4, "key '<<' stands twice, first in line 3"),
        ("k: 1\n" + "x" * 99 + ": 1\n" + "x" * 99 + ": 2", 3, "key 'xxxxxxxx"),
        ("\n? [a]\n: b", 2, "a key that is a list"),
        ("a: &a [*a]", 1, "an alias inside what it stands for"),
        ("a: !!python/object:os.system x", 1, "tag !!python/object:os.system"),
        ("a: !!timestamp 2024-13-45", 1, "tag !!timestamp"),
        ("a: !!set {b, c}", 1, "tag !!set"),
        ("a: !own 1", 1, "tag !own"),
        ("a: !!map [b]", 1, "tag !!map"),
        ("a: !!int [b]", 1, "tag !!int"),
        ("a: !!int many", 1, "'many' is no int"),
        ("a: !!int ''", 1, "'' is no int"),
        ("a: !!bool maybe", 1, "'maybe' is no bool"),
        ("a: !!float ''", 1, "'' is no float"),
        ("a:\n  " + "9" * 5000, 2, "a number of 5,000 characters (99999999...)"),
        ("a: 0x" + "f" * 5000, 1, "a number of 5,002 characters"),
        ("a: 1" + ":59" * 2000, 1, "a number of 6,001 characters"),
        ("[" * 20_000, 1, "nested too deeply"),
        ("- " * 20_000 + "a", 1, "nested too deeply"),
        ("a: [", 1, "expected the node content"),
        ("a: \x00", None, "special characters are not allowed"),
        ("*nothing", 1, "found undefined alias 'nothing'"),
    ],
)
def test_what_is_wrong_with_yaml(text, line, problem):
    with pytest.raises(MarkupError) as caught:
        load_yaml(text)
    assert caught.value.problem.startswith(problem)
    assert caught.value.line == line
    assert str(caught.value).count("\n") == 0


def test_aliases_cannot_grow_without_bound():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 12)]
    with pytest.raises(MarkupError, match="line 7: 2,396,745 values"):
        load_yaml("\n".join(lines))
    chain = ["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))]
    with pytest.raises(MarkupError, match=f"line {MAX_DEPTH + 1}: nested too deeply"):
        load_yaml("\n".join(chain))


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('{"a": 1,\n "b": {"a": 2},\n "a": 3}', 3, "key 'a' stands twice, first in line 1"),
        ('[{"\\u0061": 1, "a": 2}]', 1, "key 'a' stands twice, first in the same line"),
        ('{"a": ' + "9" * 5000 + "}", None, "a number of 5,000 characters"),
        ("[" * 100_000 + "]" * 100_000, None, "nested too deeply"),
        ("[" * 65 + "]" * 65, 1, "nested too deeply"),
        ('{"a": 1,}', 1, ""),
        ('{"a"\n: ', 2, "Expecting value"),
        ('"', 1, "Unterminated string"),
    ],
)
def test_what_is_wrong_with_json(text, line, problem):
    with pytest.raises(MarkupError) as caught:
        load_json(text)
    assert caught.value.problem.startswith(problem)
    assert caught.value.line == line


@LOADERS
def test_depth_up_to_the_limit_is_read(load):
    value = load("[" * MAX_DEPTH + '"x"' + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH):
        (value,) = value
    assert value == "x"
    with pytest.raises(MarkupError, match="nested too deeply"):
        load("[" * (MAX_DEPTH + 1) + '"x"' + "]" * (MAX_DEPTH + 1))


NAMES = st.text(st.sampled_from('ab{}[],:"\\\n é'), max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=200)
def test_json_is_read_as_it_was_written(value):
    assert load_json(json.dumps(value)) == value
    assert load_json(json.dumps(value, indent=1, ensure_ascii=False)) == value


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4), st.data())
@settings(max_examples=100)
def test_a_key_that_is_added_is_found_in_both_languages(value, data):
    key = data.draw(st.sampled_from(sorted(value)))
    inner = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in [*value.items(), (key, 1)])
    text = f"[{{{inner}}}]"
    first = list(value).index(key) + 1
    for load in (load_json, load_yaml):
        with pytest.raises(MarkupError) as caught:
            load(text)
        assert caught.value.line == len(value) + 1
        assert f"stands twice, first in line {first}" in str(caught.value)


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_is_read_or_refused(text):
    for load in (load_json, load_yaml):
        with contextlib.suppress(MarkupError):
            load(text)
