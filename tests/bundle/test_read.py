"""Reading: identity, links, strangers, parts."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from fuse_index.bundle import (
    Manifest,
    embed_groups,
    read_bundle,
    read_manifest,
    verify_bundle,
    write_bundle,
)
from fuse_index.bundle.identity import require_model
from fuse_index.errors import BundleError, FuseIndexError, IdentityError, OptionError, ShapeError
from tests.bundle import sample


@pytest.fixture
def bundle(tmp_path) -> Path:
    write_bundle(tmp_path / "bundle", sample.contents())
    return tmp_path / "bundle"


@pytest.mark.smoke
def test_round_trip(bundle):
    read = read_bundle(bundle, sample.SOURCE, sample.TARGET, parts=sample.ALL)
    assert read.manifest == Manifest.from_json(read.manifest.to_json())
    assert read.table.words == sample.TABLE.words
    assert read.table.source.equals(sample.TABLE.source)
    assert read.word_groups.dtype == np.int64
    assert torch.equal(read.adapters["fallback"], sample.ramp(1, 3, 2, scale=2.0))
    assert read.adapters["1x1"].is_contiguous()
    read.adapters["1x1"].add_(1)  # memory of its own: no warning, no effect on the file
    assert torch.equal(read_bundle(bundle).adapters["1x1"], sample.ramp(1, 3, 2))


def test_group_tensors_are_zero_padded_and_in_table_order(bundle):
    groups = read_bundle(bundle, parts=["groups"]).groups
    assert groups.shapes["source.fallback"] == (1, 3, 3)
    assert groups.shapes["target.fallback"] == (1, 3, 2)
    expected = torch.cat([sample.TARGET_EMBEDDINGS[[3, 4]], torch.zeros(1, 2)])[None]
    assert torch.equal(groups.load("target.fallback"), expected)
    pieces = list(groups.chunks("source.2x1", words=1))
    assert [tuple(piece.shape) for piece in pieces] == [(1, 2, 3), (1, 2, 3)]
    assert torch.equal(torch.cat(pieces), sample.SOURCE_EMBEDDINGS[2:6].reshape(2, 2, 3))
    with pytest.raises(OptionError, match=r"group tensor 'source.9x9'; expected one of"):
        groups.load("source.9x9")
    groups.close()
    with pytest.raises(OptionError, match="was closed"):
        groups.load("source.2x1")


def test_reading_without_the_word_part_says_how_to_get_it(bundle):
    read = read_bundle(bundle, parts=["adapter"])
    with pytest.raises(
        OptionError, match=r"words of .* were not read; pass parts=\(\.\.\., 'words'"
    ):
        _ = read.table
    with pytest.raises(OptionError, match="part 'tokens'; expected one of"):
        read_bundle(bundle, parts=["tokens"])


def test_parts_that_are_not_read_may_be_missing(bundle):
    (bundle / "groups.safetensors").unlink()
    assert read_bundle(bundle).table.words == sample.TABLE.words
    with pytest.raises(BundleError, match=r"groups\.safetensors is missing"):
        read_bundle(bundle, parts=["groups"])
    with pytest.raises(BundleError, match=r"groups\.safetensors is missing"):
        verify_bundle(bundle)


def test_bundle_built_without_groups_says_so(tmp_path):
    write_bundle(tmp_path / "bundle", sample.contents(groups=None))
    with pytest.raises(BundleError, match=r"no group tensors \(built with --no-groups\)"):
        read_bundle(tmp_path / "bundle", parts=["groups"])


def test_another_model_is_refused_by_both_names(bundle):
    other = dataclasses.replace(sample.SOURCE, name="org/other-lm", tokenizer_hash="9" * 64)
    with pytest.raises(IdentityError) as caught:
        read_bundle(bundle, expect_source=other)
    text = str(caught.value)
    assert "the source model is 'org/other-lm'" in text
    assert "'org/source-lm' at revision 0123abcd" in text
    assert "another tokenizer" in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"embedding_hash": "0" * 64}, "other embedding values"),
        ({"width": 4}, "embedding width 4, not 2"),
        ({"vocabulary_size": 30}, "30 embedding rows, not 9"),
        ({"tokenizer_hash": "0" * 64, "width": 4}, "another tokenizer, embedding width 4, not 2"),
    ],
)
def test_what_differs_is_named(bundle, change, says):
    with pytest.raises(IdentityError, match=f"the target model is .*{says}"):
        read_bundle(bundle, expect_target=dataclasses.replace(sample.TARGET, **change))


@pytest.mark.parametrize(
    ("given", "built", "problem"),
    [
        (("v1", "b"), ("v2", "b"), ""),
        (("v1", "b"), ("v2", "c"), "other embedding values (another revision)"),
        (("v1", "b"), ("", "c"), "other embedding values (fine-tuned, or another checkpoint)"),
        (("v1", "b"), ("v1", "c"), "other embedding values (fine-tuned, or another checkpoint)"),
        (("v1", ""), ("v1", "c"), ""),
        (("", ""), ("v2", "c"), ""),
        (("v1", ""), ("v2", "c"), "another revision, and no embedding hash to tell"),
    ],
)
def test_revisions_decide_only_where_hashes_do_not(given, built, problem):
    """A revision (v1, v2) and an embedding hash (b, c; empty where it is not known)."""
    models = [
        dataclasses.replace(sample.SOURCE, revision=revision, embedding_hash=letter * 64)
        for revision, letter in (given, built)
    ]
    (found,) = models[0].differences(models[1]) or [""]
    assert found.startswith(problem)
    assert bool(found) == bool(problem)
    if problem:
        with pytest.raises(IdentityError, match=r"at revision v1 .*'org/source-lm'"):
            require_model("source", models[1], models[0], "bundle")


@pytest.mark.parametrize(
    "change", [{"name": "/elsewhere/same-model"}, {"revision": "fff"}, {"embedding_hash": ""}]
)
def test_equal_hashes_fit_whatever_the_names(bundle, change):
    expected = dataclasses.replace(sample.SOURCE, **change)
    assert read_bundle(bundle, expect_source=expected).table.words == sample.TABLE.words


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: p.mkdir(), r"is not a bundle: it has no manifest\.json"),
    ],
)
def test_paths_without_a_bundle(tmp_path, make, message):
    make(tmp_path / "thing")
    with pytest.raises(BundleError, match=message):
        read_bundle(tmp_path / "thing")


def test_leftovers_are_never_read(bundle):
    leftover = bundle.parent / ".bundle.building-0123456789abcdef"
    bundle.rename(leftover)
    with pytest.raises(BundleError, match="what an interrupted build left behind"):
        read_bundle(leftover)


def test_strangers_are_refused_and_hidden_files_ignored(bundle):
    (bundle / ".gitattributes").write_text("x")
    (bundle / ".cache").mkdir()
    verify_bundle(bundle)
    (bundle / "pytorch_model.bin").write_bytes(b"\x80\x04")
    for load in (read_bundle, verify_bundle):
        with pytest.raises(BundleError, match=r"pytorch_model\.bin is not listed in the manifest"):
            load(bundle)


def test_stranger_under_index_is_refused(bundle):
    (bundle / "index").mkdir()
    (bundle / "index" / "evil.faiss").write_text("x")
    with pytest.raises(BundleError, match=r"evil\.faiss is not listed"):
        read_bundle(bundle)


def test_links_out_of_the_folder_are_refused(bundle):
    target = bundle.parent / "elsewhere.safetensors"
    (bundle / "adapter.safetensors").rename(target)
    (bundle / "adapter.safetensors").symlink_to(target)
    with pytest.raises(BundleError, match=r"adapter\.safetensors is a link that leaves"):
        read_bundle(bundle)


def test_link_of_the_manifest_is_refused(bundle):
    (bundle / "manifest.json").rename(bundle.parent / "m.json")
    (bundle / "manifest.json").symlink_to("../m.json")
    with pytest.raises(BundleError, match="is a link that leaves"):
        read_bundle(bundle)


def test_index_folder_that_is_a_link_is_refused(tmp_path):
    index = tmp_path / "words.faiss"
    index.write_bytes(b"index")
    folder = tmp_path / "bundle"
    write_bundle(folder, sample.contents(index_files={"words.faiss": index}))
    (folder / "index").rename(tmp_path / "outside")
    (folder / "index").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="is a link that leaves"):
        read_bundle(folder).index_bytes("words.faiss")
    with pytest.raises(BundleError, match="has no index/other"):
        read_bundle(folder).index_bytes("other")


def test_links_inside_the_folder_and_into_the_hub_cache_are_followed(bundle):
    cache = bundle.parent / "models--org--adapter"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "abc").mkdir(parents=True)
    for path in bundle.iterdir():
        blob = cache / "blobs" / f"{hash(path.name):x}"
        blob.write_bytes(path.read_bytes())
        (cache / "snapshots" / "abc" / path.name).symlink_to(blob)
    verify_bundle(cache / "snapshots" / "abc")
    (bundle / "adapter.safetensors").rename(bundle / ".real")
    (bundle / "adapter.safetensors").symlink_to(".real")
    verify_bundle(bundle)


def test_linked_bundle_folder_is_read(bundle):
    (bundle.parent / "link").symlink_to("bundle")
    assert read_manifest(bundle.parent / "link") == read_manifest(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "words.safetensors", "adapter.safetensors"])
def test_things_that_are_not_files_are_refused(bundle, name):
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    with pytest.raises(BundleError, match=f"{name} is not a regular file"):
        read_bundle(bundle)
    (bundle / name).unlink()
    (bundle / name).mkdir()
    with pytest.raises(BundleError, match=name):
        read_bundle(bundle)
    (bundle / name).rmdir()
    (bundle / name).symlink_to(name)
    with pytest.raises(BundleError, match=name):
        read_bundle(bundle)


def test_other_format_version(bundle):
    sample.edit_manifest(bundle, lambda m: m.update(format_version=2))
    with pytest.raises(
        BundleError, match=r"has format version 2; expected version 1; upgrade fuse_index, or build"
    ):
        read_bundle(bundle)


def test_reading_while_it_is_overwritten_gives_one_or_the_other(tmp_path):
    """A reader sees the old bundle or the new one, or an error that says so; never a mixture."""
    path = tmp_path / "bundle"
    small, large = sample.contents(groups=None), sample.contents(groups=None, left_out={"why": 5})
    write_bundle(path, small)
    stop = threading.Event()

    def replace() -> None:
        turn = 0
        while not stop.is_set():
            write_bundle(path, (large, small)[turn % 2], overwrite=True)
            turn += 1

    thread = threading.Thread(target=replace)
    thread.start()
    seen = set()
    try:
        for _ in range(150):
            try:
                seen.add(tuple(read_bundle(path).manifest.left_out.items()))
            except FuseIndexError:
                continue
    finally:
        stop.set()
        thread.join()
    assert seen <= {(("why", 5),), tuple(sorted(small.left_out.items()))}
    assert seen


@pytest.mark.parametrize("act", [verify_bundle, read_bundle])
def test_words_longer_than_the_tensors_of_their_group_are_refused(tmp_path, act):
    """Group x1 with k = 2 serves words of one target token and at most two source tokens."""
    adapters = {"x1": sample.ramp(2, 3, 2), "x2": sample.ramp(3, 3, 2)}
    adapters["fallback"] = sample.ramp(1, 3, 2)
    content = sample.contents(adapters=adapters, groups=None, quality={}, fallbacks={})
    write_bundle(tmp_path / "bundle", content)
    act(tmp_path / "bundle")
    path = tmp_path / "bundle" / "adapter.safetensors"
    sample.edit_column(path, "adapter.x1", lambda faces: faces[:1])
    sample.reseal(tmp_path / "bundle")
    message = r"adapter\.safetensors: group 'x1' has words of 2 tokens, but tensors of 1"
    with pytest.raises(BundleError, match=message):
        act(tmp_path / "bundle")


def test_group_tensors_of_a_side_have_one_dtype(bundle):
    path = bundle / "groups.safetensors"
    header, data = sample.split_tensors(path)
    name = "source.1x1"
    low, high = header[name]["data_offsets"]
    wide = np.frombuffer(data[low:high], "<f4").astype("<f8").tobytes()
    entries = {key: item for key, item in header.items() if key not in ("__metadata__", name)}
    rest = sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
    parts, start = [wide], len(wide)
    moved = {name: header[name] | {"dtype": "F64", "data_offsets": [0, len(wide)]}}
    for key, item in rest:
        a, b = item["data_offsets"]
        parts.append(data[a:b])
        moved[key] = item | {"data_offsets": [start, start + b - a]}
        start += b - a
    sample.join_tensors(path, moved, b"".join(parts))
    sample.reseal(bundle)
    with pytest.raises(BundleError, match="source tensors of dtypes F32, F64; expected one dtype"):
        verify_bundle(bundle)
    with pytest.raises(BundleError, match="source tensors of dtypes F32, F64; expected one dtype"):
        read_bundle(bundle, parts=["groups"])


@pytest.mark.parametrize("value", [1.1e30, -3e38])
def test_values_whose_products_overflow_are_neither_read_nor_written(tmp_path, value):
    adapters = {name: tensor.clone() for name, tensor in sample.adapters().items()}
    adapters["2x1"][1, 2, 1] = value
    with pytest.raises(ShapeError, match=r"adapter '2x1' holds values beyond 1e\+30"):
        write_bundle(tmp_path / "bundle", sample.contents(adapters=adapters))
    table = sample.SOURCE_EMBEDDINGS.clone()
    table[11] = value
    groups = embed_groups(sample.TABLE, sample.NAMES, table, sample.TARGET_EMBEDDINGS)
    with pytest.raises(ShapeError, match=r"group tensor 'source\..*' holds values beyond 1e\+30"):
        write_bundle(tmp_path / "bundle", sample.contents(groups=groups))
    assert not (tmp_path / "bundle").exists()


def test_what_a_file_makes_too_long_is_cut_in_messages():
    error = BundleError("a" * 5000, expected="b" * 5000, remedy="c")
    assert len(str(error)) < 4100
    assert str(error).endswith("bbb...; c")
