"""Manifest, identities, JSON and names: what is accepted, and what every refusal says."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.bundle import FileRecord, GroupRecord, Manifest, ModelIdentity, hash_embeddings
from fuse_index.bundle.jsontext import content_digest, dump_pretty, load_strict, plain
from fuse_index.bundle.layout import is_member_name, order_groups, parse_group
from fuse_index.errors import BundleError, OptionError
from tests.bundle import sample

RECORD = FileRecord(1, "0" * 64)
MANIFEST = Manifest(
    source=sample.SOURCE,
    target=sample.TARGET,
    groups=(GroupRecord("1x1", 3), GroupRecord("fallback", 1)),
    files={"words.safetensors": RECORD, "adapter.safetensors": RECORD, "index/a.faiss": RECORD},
    corpus_sha256="1" * 64,
    options={"ridge": 0.1, "path": Path("a/b")},
    quality={"1x1": {"cosine": 0.5}},
    package_version="1",
)


def test_json_round_trip():
    assert Manifest.from_bytes(MANIFEST.to_bytes(), "m") == MANIFEST
    assert MANIFEST.words == 4
    assert MANIFEST.options == {"path": "a/b", "ridge": 0.1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_options_survive(options):
    manifest = dataclasses.replace(MANIFEST, options=options)
    assert Manifest.from_bytes(manifest.to_bytes(), "m") == manifest
    assert manifest.to_bytes().isascii()


def seal(value: dict, **changes: object) -> dict:
    value = {**value, **changes}
    value.pop("checksum")
    return {**value, "checksum": content_digest(value)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "zip"}, r"is not a fuse_index manifest \(format 'zip'\)"),
        ({"format_version": "1"}, "has format version '1'; expected version 1; upgrade"),
        ({"format_version": True}, "has format version True"),
        ({"more": 1}, r"has unknown keys \['more'\]"),
        ({"identity": 1}, "identity has the wrong type; expected true or false"),
        ({"groups": {}}, "groups has the wrong type; expected a list"),
        ({"groups": ["1x1"]}, r"groups\[0\] is '1x1'; expected an object"),
        ({"groups": [{"name": "1y1", "words": 3}]}, "group name '1y1'"),
        ({"groups": [{"name": "1x1", "words": -3}]}, r"groups\['1x1'\] is -3"),
        ({"groups": [{"name": "2x1", "words": 1}, {"name": "1x1", "words": 1}]}, "not sorted"),
        ({"groups": [{"name": "1x1", "words": 1}] * 2}, "given twice"),
        ({"source": {"name": "x"}}, r"source lacks \['embedding_hash', 'revision', 'tok"),
        ({"source": None}, "source has the wrong type"),
        ({"left_out": {"a": 1.5}}, r"left_out\['a'\] is 1\.5"),
        ({"fallbacks": {"a": 1}}, r"fallbacks\['a'\] is 1; expected text"),
        ({"corpus_sha256": "ABC"}, "corpus_sha256 'ABC'"),
        ({"identity": True}, "identity adapter with"),
        ({"groups": [{"name": "1x1", "words": 4}]}, "groups without 'fallback'; expected"),
        ({"source": sample.SOURCE.to_json() | {"embedding_hash": ""}}, "source has no embedding"),
        ({"files": {f"index/{i}": 0 for i in range(5000)}}, "files has 5000 items, more than 4096"),
        ({"left_out": {str(i): "a" for i in range(20_000)}}, "left_out has 20000 items, more t"),
        ({"files": {}}, r"files lacks \['adapter.safetensors', 'words.safetensors'\]"),
    ],
)
def test_manifests_that_are_refused(changes, message):
    with pytest.raises(BundleError, match=f"^m.*{message}"):
        Manifest.from_json(seal(MANIFEST.to_json(), **changes), "m")


def test_an_identity_is_of_one_model():
    value = seal(
        MANIFEST.to_json(),
        identity=True,
        groups=[{"name": "1x1", "words": 3}],
        files={"words.safetensors": {"size": 1, "sha256": "0" * 64}},
    )
    with pytest.raises(BundleError, match="identity adapter of two models: the source has another"):
        Manifest.from_json(value, "m")
    source = Manifest.from_json(seal(value, target=value["source"]), "m").source
    assert source == sample.SOURCE


def test_a_manifest_of_more_groups_than_a_reader_takes_is_not_made():
    groups = tuple(GroupRecord(f"{i // 1000 + 1}x{i % 1000 + 1}", 1) for i in range(16_385))
    with pytest.raises(OptionError, match="groups has 16385 items; expected at most 16384"):
        dataclasses.replace(MANIFEST, groups=groups)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "index/../x", "x.bin", "index/a/b", ""])
def test_paths_that_leave_the_folder_are_refused(name):
    files = {**MANIFEST.to_json()["files"], name: {"size": 1, "sha256": "0" * 64}}
    with pytest.raises(BundleError, match=r"file name .*; expected a bundle's file"):
        Manifest.from_json(seal(MANIFEST.to_json(), files=files), "m")
    assert not is_member_name(name)


@pytest.mark.parametrize(
    "record",
    [
        {"size": -1, "sha256": "0" * 64},
        {"size": 1 << 60, "sha256": "0" * 64},
        {"size": True, "sha256": "0" * 64},
        {"size": 1, "sha256": "0" * 63},
        {"size": 1},
        7,
    ],
)
def test_file_records_that_are_refused(record):
    files = {**MANIFEST.to_json()["files"], "words.safetensors": record}
    with pytest.raises(BundleError, match=r"words\.safetensors"):
        Manifest.from_json(seal(MANIFEST.to_json(), files=files), "m")


def test_any_change_breaks_the_checksum():
    value = MANIFEST.to_json()
    value["quality"] = {"1x1": {"cosine": 0.9}}
    with pytest.raises(BundleError, match="was changed after it was written"):
        Manifest.from_json(value, "m")


def test_missing_key():
    value = MANIFEST.to_json()
    del value["quality"]
    with pytest.raises(BundleError, match=r"m lacks \['quality'\]"):
        Manifest.from_json(value, "m")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": 1e999}', "number 1e999 is out of range"),
        (b"[1]", "holds a JSON list"),
        (b"{", "is not valid JSON"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(BundleError, match=message):
        load_strict(text, "file")


def test_plain_values():
    class Kind(enum.Enum):
        ONE = "one"

    value = plain(
        {
            Kind.ONE: np.float32(0.5),
            "b": (1, np.int64(2), torch.tensor(3)),
            "a": [float("inf"), True, None, Path("x/y")],
        }
    )
    assert value == {"a": [None, True, None, "x/y"], "b": [1, 2, 3], "one": 0.5}
    assert list(value) == ["a", "b", "one"]
    with pytest.raises(TypeError, match="set has no JSON form"):
        plain({"a": {1}})


def test_pretty_json_is_sorted_and_ascii():
    assert dump_pretty({"b": "é", "a": [1]}) == b'{\n  "a": [\n    1\n  ],\n  "b": "\\u00e9"\n}\n'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "model name ''"),
        ({"name": "a\x1b[31m"}, "expected printable text"),
        ({"revision": "a\nb"}, "model revision"),
        ({"tokenizer_hash": ""}, "tokenizer_hash ''"),
        ({"embedding_hash": "xyz"}, "embedding_hash 'xyz'"),
        ({"width": 0}, "width 0; expected a positive integer"),
        ({"vocabulary_size": True}, "vocabulary_size True"),
    ],
)
def test_identities_that_are_refused(changes, message):
    with pytest.raises(OptionError) as caught:
        dataclasses.replace(sample.SOURCE, **changes)
    assert message in str(caught.value)


def test_embedding_hash_depends_on_values_and_shape_only():
    table = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)).half().float()
    expected = hashlib.sha256(b"100x8:float32\n" + table.numpy().tobytes()).hexdigest()
    assert hash_embeddings(table) == expected
    assert hash_embeddings(table.half()) == expected
    assert hash_embeddings(table.t().contiguous().t()) == expected
    assert hash_embeddings(torch.nn.Parameter(table)) == expected
    assert hash_embeddings(table.reshape(50, 16)) != expected
    table[99, 7] += 1
    assert hash_embeddings(table) != expected


@pytest.mark.parametrize(
    ("name", "counts", "tube", "fixed"),
    [("1x2", (1, 2), 2, True), ("x3", (0, 3), 3, False), ("fallback", (0, 0), 1, True)],
)
def test_group_names(name, counts, tube, fixed):
    key = parse_group(name)
    assert (key.source_count, key.target_count) == counts
    assert key.smallest_tube == tube
    assert key.tube_is_fixed is fixed
    assert key.name == name


@pytest.mark.parametrize(
    "name", ["", "0x1", "1x0", "x0", "1x", "01x1", "1x1 ", "a", "9999x1", "1x1x1"]
)
def test_group_names_that_are_refused(name):
    with pytest.raises(OptionError, match="group name"):
        parse_group(name)


def test_groups_are_ordered_by_counts_with_the_fallback_last():
    names = ["fallback", "10x1", "2x1", "1x10", "1x2"]
    assert order_groups(names) == ("1x2", "1x10", "2x1", "10x1", "fallback")
    with pytest.raises(OptionError, match="one grouping"):
        order_groups(["1x1", "x1"])


def test_identity_round_trip():
    assert ModelIdentity.from_json(sample.SOURCE.to_json()) == sample.SOURCE
    with pytest.raises(OptionError, match="model identity is a list"):
        ModelIdentity.from_json([])
