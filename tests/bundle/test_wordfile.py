"""Groups of words, and their columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.bundle import assign_groups, embed_groups, read_bundle, write_bundle
from fuse_index.bundle.layout import order_groups
from fuse_index.errors import BundleError, OptionError
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable
from tests.bundle import sample


def random_table(n: int, seed: int) -> WordTable:
    rng = np.random.default_rng(seed)

    def rows(size: int) -> Ragged:
        lengths = rng.integers(1, 5, n)
        return Ragged.from_lists([rng.integers(0, size, k) for k in lengths])

    words = tuple(f"wörd-{i}" for i in range(n))
    return WordTable(words, rng.integers(0, 100, n), rows(12), rows(9))


def test_assigned_groups_equal_a_loop():
    table = random_table(300, 0)
    names = order_groups(["1x1", "2x3", "4x1", "1x4", "fallback"])
    expected = []
    for p, q in zip(table.source.lengths.tolist(), table.target.lengths.tolist(), strict=True):
        own = f"{p}x{q}"
        expected.append(names.index(own if own in names else "fallback"))
    assert assign_groups(table, names).tolist() == expected
    names = order_groups(["x2", "x3", "fallback"])
    expected = [
        names.index(f"x{q}" if f"x{q}" in names else "fallback")
        for q in table.target.lengths.tolist()
    ]
    assert assign_groups(table, names).tolist() == expected


def test_word_without_group_or_fallback():
    with pytest.raises(OptionError, match="words with 2 source and 1 target tokens have no group"):
        assign_groups(sample.TABLE, ["1x1", "3x2"])


def test_group_tensors_equal_a_loop(tmp_path):
    table = random_table(300, 1)
    adapters = {
        "1x1": torch.zeros(1, 3, 2),
        "2x3": torch.zeros(3, 3, 2),
        "fallback": torch.zeros(1, 3, 2),
    }
    names = order_groups(adapters)
    embeddings = {"source": torch.randn(12, 3), "target": torch.randn(9, 2)}
    groups = embed_groups(table, names, embeddings["source"], embeddings["target"])
    write_bundle(tmp_path / "b", sample.contents(table=table, adapters=adapters, groups=groups))
    bundle = read_bundle(tmp_path / "b", parts=sample.ALL)
    for side, ids in (("source", table.source), ("target", table.target)):
        for index, name in enumerate(names):
            rows = np.flatnonzero(bundle.word_groups == index)
            stored = bundle.groups.load(f"{side}.{name}")
            k = stored.shape[1]
            assert k == (4 if name == "fallback" else max(map(int, name.split("x"))))
            for row, tensor in zip(rows, stored, strict=True):
                tokens = embeddings[side][torch.from_numpy(ids[row])]
                assert torch.equal(tensor[: len(tokens)], tokens)
                assert not tensor[len(tokens) :].any()


def test_large_tables_round_trip(tmp_path):
    table = random_table(5000, 2)
    write_bundle(tmp_path / "b", sample.contents(table=table, groups=None))
    read = read_bundle(tmp_path / "b").table
    assert read.words == table.words
    assert read.counts.tolist() == table.counts.tolist()
    assert read.source.equals(table.source)
    assert read.target.equals(table.target)


@pytest.mark.parametrize(
    ("column", "edit", "message"),
    [
        ("words.offsets", lambda a: a[::-1], "'words.offsets' does not rise from 0 to"),
        ("words.offsets", lambda a: a[:-1], "'words.offsets' does not have 6 elements"),
        ("words.offsets", lambda a: np.array([0, 3, 6, 15, 18, 22]), "words.bytes is not UTF-8"),
        ("words.counts", lambda a: -a, "'words.counts' has a negative count"),
        ("words.counts", lambda a: a[1:], "'words.counts' does not have 5 elements"),
        ("words.counts", lambda a: a.reshape(1, -1), "'words.counts' has shape"),
        ("words.groups", lambda a: a + 1, r"'words.groups' has a group outside 0\.\.2"),
        ("words.groups", np.zeros_like, "puts a word into a group of other token"),
        ("words.groups", lambda a: np.full_like(a, 2), "manifest's number of words a group"),
        ("source.ids", lambda a: a - 1, r"'source.ids' has an id outside 0\.\.11"),
        ("target.ids", lambda a: a + 9, r"'target.ids' has an id outside 0\.\.8"),
        (
            "source.offsets",
            lambda a: np.array([0, 1, 3, 3, 6, 9]),
            "'source.offsets' does not rise",
        ),
        (
            "source.offsets",
            lambda a: np.array([0, 2**62, 2**63 - 1, -(2**62), 6, 9]),
            "'source.offsets' does not rise",
        ),
    ],
)
def test_columns_that_do_not_fit(tmp_path, column, edit, message):
    folder = tmp_path / "bundle"
    write_bundle(folder, sample.contents())
    sample.edit_column(folder / "words.safetensors", column, edit)
    sample.reseal(folder)
    with pytest.raises(BundleError, match=rf"words\.safetensors.*{message}"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("part", "tensor", "edit", "message"),
    [
        ("adapter", "adapter.2x1", lambda a: a[:1], "has tube length 1, expected 2"),
        (
            "adapter",
            "adapter.2x1",
            lambda a: a[:, :2],
            r"has shape \(2, 2, 2\), expected",
        ),
        ("groups", "source.2x1", lambda a: a[:1], r"has shape \(1, 2, 3\), expected \(2, k, 3"),
        ("groups", "target.2x1", lambda a: a[:, :1], "has tube length 1, expected 2 to 2"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, part, tensor, edit, message):
    folder = tmp_path / "bundle"
    write_bundle(folder, sample.contents())
    sample.edit_column(folder / f"{part}.safetensors", tensor, edit)
    sample.reseal(folder)
    with pytest.raises(BundleError, match=rf"{part}\.safetensors: tensor '{tensor}' {message}"):
        read_bundle(folder, parts=sample.ALL)
