"""Indexes on disk: in a bundle, on their own, damaged, of another bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fuse_index.bundle import read_bundle, read_manifest, verify_bundle, write_bundle
from fuse_index.errors import BundleError, IdentityError, OptionError, StorageError
from fuse_index.index import (
    IndexOptions,
    Kind,
    WordIndex,
    add_index,
    load_index,
    read_index,
    save_index,
)
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable
from tests.bundle import sample
from tests.index import helpers

WORDS = 1500
STORED = [Kind.FLAT, Kind.TOKENS, Kind.PQ]


def make_table() -> tuple[WordTable, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    rows = [[int(i)] for i in rng.integers(9, size=WORDS)]
    two = [[int(a), int(b)] for a, b in rng.integers(12, size=(WORDS, 2))]
    words, counts = helpers.make_words(WORDS)
    table = WordTable(words, counts, Ragged.from_lists(two), Ragged.from_lists(rows))
    return table, torch.randn(12, 3), torch.randn(9, 2)


@pytest.fixture(scope="module")
def content() -> tuple[WordTable, torch.Tensor, torch.Tensor]:
    return make_table()


@pytest.fixture
def bundle(tmp_path, content) -> Path:
    adapters = {"2x1": sample.ramp(2, 3, 2), "fallback": sample.ramp(1, 3, 2)}
    write_bundle(
        tmp_path / "bundle",
        sample.contents(table=content[0], adapters=adapters, groups=None, quality={}),
    )
    return tmp_path / "bundle"


def build(content, kind: Kind, **options) -> WordIndex:
    table, source, target = content
    given = {"recall": 0.3, "top_k": 10, "memory": 1e3} | options
    return WordIndex.from_table(
        table, source=source, target=target, options=IndexOptions(kind, **given)
    )


@pytest.mark.parametrize("kind", STORED)
def test_an_index_comes_back_out_of_its_bundle(bundle, content, kind):
    index = build(content, kind)
    files = set(read_manifest(bundle).files)
    manifest = add_index(bundle, index, "joint")
    assert verify_bundle(bundle).to_json() == manifest.to_json()
    stored = {"index/joint.json"} | (set() if kind.exact else {"index/joint.faiss"})
    assert set(manifest.files) == files | stored
    report = manifest.indexes["joint"]
    assert report["kind"] == kind.value
    assert (report["metric"], report["representation"]) == ("ip", "mean")
    assert 0.3 <= report["recall"] <= 1.0
    assert report["seconds"] > 0
    again = read_index(read_bundle(bundle), "joint", source=content[1], target=content[2])
    assert again.options == index.options
    assert again.report == json.loads(json.dumps(index.report))
    queries = helpers.gradient_like(index, 7)
    for got, want in zip(again.search(queries, 20), index.search(queries, 20), strict=True):
        assert torch.equal(got, want)


def test_a_second_index_of_that_name_replaces_the_first(bundle, content):
    before = read_bundle(bundle)
    add_index(bundle, build(content, Kind.PQ), "target")
    add_index(bundle, build(content, Kind.FLAT), "other")
    manifest = add_index(bundle, build(content, Kind.TOKENS), "target")
    assert sorted(manifest.indexes) == ["other", "target"]
    assert "index/target.faiss" not in manifest.files
    assert not (bundle / "index" / "target.faiss").exists()
    verify_bundle(bundle)
    after = read_bundle(bundle)
    assert torch.equal(after.adapters["2x1"], before.adapters["2x1"])
    assert after.table.words == before.table.words
    assert "| other | flat | ip | mean |" in (bundle / "README.md").read_text()
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_bundle_without_an_index_does_not_speak_of_any(bundle):
    assert "indexes" not in json.loads((bundle / "manifest.json").read_text())
    with pytest.raises(
        BundleError, match=r"has no index 'x'; expected one of its indexes \(none\); make it with"
    ):
        read_index(read_bundle(bundle), "x")


def test_indexes_in_a_manifest_must_be_objects(bundle):
    sample.edit_manifest(bundle, lambda value: value.update(indexes={"a": 3}))
    with pytest.raises(BundleError, match=r"indexes\['a'\] is 3; expected an object"):
        read_manifest(bundle)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # files of a bundle may be links to another's
    path.write_bytes(data)


def cut(path: Path) -> None:
    data = path.read_bytes()[:-1]
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["joint.faiss", "joint.json"])
@pytest.mark.parametrize(("damage", "words"), [(flip, "is damaged: sha256"), (cut, "is truncated")])
def test_a_damaged_file_never_reaches_faiss(bundle, content, monkeypatch, file, damage, words):
    add_index(bundle, build(content, Kind.PQ), "joint")
    damage(bundle / "index" / file)
    monkeypatch.setattr("fuse_index.index.files.parse_index", lambda *_: pytest.fail("was read"))
    with pytest.raises(BundleError, match=f"{file} {words}"):
        read_index(read_bundle(bundle), "joint", source=content[1], target=content[2])


def test_a_file_that_is_no_index_is_refused_by_name(bundle, content):
    """Somebody who makes every checksum fit."""
    add_index(bundle, build(content, Kind.PQ), "joint")
    (bundle / "index" / "joint.faiss").write_bytes(b"no index at all" * 9)
    text = json.loads((bundle / "index" / "joint.json").read_text())
    sample.reseal(bundle)
    with pytest.raises(BundleError, match=r"joint\.json: faiss .* cannot read it \("):
        read_index(read_bundle(bundle), "joint", source=content[1], target=content[2])
    text["options"]["kind"] = "magic"
    (bundle / "index" / "joint.json").write_text(json.dumps(text))
    sample.reseal(bundle)
    with pytest.raises(BundleError, match=r"joint\.json is an index of kind 'magic'; expected one"):
        read_index(read_bundle(bundle), "joint", source=content[1], target=content[2])
    (bundle / "index" / "joint.json").write_text('{"format": "something else"}')
    sample.reseal(bundle)
    with pytest.raises(BundleError, match="is not a word index of this version"):
        read_index(read_bundle(bundle), "joint", source=content[1], target=content[2])


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq", "ivf-sq", "rabitq", "auto", None])
def test_an_index_of_a_kind_that_is_no_more_is_refused(bundle, content, kind):
    add_index(bundle, build(content, Kind.PQ), "joint")
    path = bundle / "index" / "joint.json"
    text = json.loads(path.read_text())
    text["options"]["kind"] = kind
    path.write_text(json.dumps(text))
    sample.reseal(bundle)
    message = (
        rf"joint\.json is an index of kind {kind!r}; expected one of flat, tokens, pq; "
        r"build the index again \(fuse-index index\)"
    )
    with pytest.raises(BundleError, match=message):
        read_index(read_bundle(bundle), "joint", source=content[1], target=content[2])


def test_a_faiss_file_of_other_words_is_refused(bundle, content, tmp_path):
    table, source, target = content
    few = WordIndex.from_table(
        table.select(np.arange(1200)),
        source=source,
        target=target,
        options=IndexOptions(Kind.PQ, recall=0.3, memory=1e3),
    )
    save_index(few, tmp_path / "few")
    add_index(bundle, build(content, Kind.PQ), "joint")
    shutil.copy(tmp_path / "few" / "words.faiss", bundle / "index" / "joint.faiss")
    sample.reseal(bundle)
    with pytest.raises(BundleError, match="holds 1200 vectors of width 5; expected 1500 of"):
        read_index(read_bundle(bundle), "joint", source=source, target=target)


def test_an_index_of_another_bundle_is_refused(bundle, content, tmp_path):
    table, source, target = content
    index = build(content, Kind.PQ)
    add_index(bundle, index, "joint")
    save_index(index, tmp_path / "apart")
    with pytest.raises(IdentityError, match="was built for other words, tokens or embeddings"):
        read_index(read_bundle(bundle), "joint", source=source, target=target + 1)
    other = table.select(np.arange(WORDS - 1, -1, -1))
    with pytest.raises(IdentityError, match="was built for other words"):
        load_index(tmp_path / "apart", other, source=source, target=target)
    with pytest.raises(OptionError, match="is over source, target; expected the embeddings of the"):
        load_index(tmp_path / "apart", table, target=target)


def test_an_index_can_be_shared_apart_with_words_added(content, tmp_path):
    table, source, target = content
    index = build(content, Kind.PQ).add(["extra"], {"source": [[1]], "target": [[2, 3]]}, [4])
    save_index(index, tmp_path / "apart", "mine")
    again = load_index(tmp_path / "apart", table, source=source, target=target, name="mine")
    assert again.words[-1] == "extra"
    assert again.counts[-1] == 4
    assert again.added == 1
    queries = helpers.gradient_like(index, 3)
    for got, want in zip(again.search(queries, 20), index.search(queries, 20), strict=True):
        assert torch.equal(got, want)
    with pytest.raises(StorageError, match="mine cannot be written"):
        save_index(index, tmp_path / "apart", "mine")
    with pytest.raises(BundleError, match=r"words\.json is missing"):
        load_index(tmp_path / "apart", table, source=source, target=target)
    cut(tmp_path / "apart" / "mine.faiss")
    with pytest.raises(BundleError, match=r"mine\.faiss is truncated"):
        load_index(tmp_path / "apart", table, source=source, target=target, name="mine")
