"""What changed between two bundles, value by value."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fuse_index.bundle import read_bundle, write_bundle
from fuse_index.share.compare import adapter_differences, compare_bundles
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable
from tests.bundle import sample


def compare(tmp_path, first, second):
    for name, contents in (("a", first), ("b", second)):
        write_bundle(tmp_path / name, contents)
    return compare_bundles(read_bundle(tmp_path / "a"), read_bundle(tmp_path / "b"))


def test_the_same(tmp_path):
    found = compare(tmp_path, sample.contents(), sample.contents())
    assert found.same
    assert found.fits == {"source": True, "target": True}
    assert not found.words.any
    assert not any((found.models, found.options, found.groups, found.adapters, found.files))


def test_words_by_what_changed_of_them(tmp_path):
    """'the' gets another count, 'naïve' other source tokens, '日本' goes, 'new' comes."""
    table = WordTable(
        words=("the", "naïve", "new", "x|y", "rest"),
        counts=np.array([41, 7, 3, 1, 0]),
        source=Ragged.from_lists([[1], [2, 4], [4, 5], [11], [0, 6, 7]]),
        target=Ragged.from_lists([[8], [1], [2], [0], [3, 4]]),
    )
    words = compare(tmp_path, sample.contents(), sample.contents(table=table, groups=None)).words
    assert (words.kept, words.removed, words.added) == (4, 1, 1)
    assert (words.examples_removed, words.examples_added) == (("日本",), ("new",))
    assert (words.counts_changed, words.source_tokens_changed, words.target_tokens_changed) == (
        1,
        1,
        0,
    )


@pytest.mark.smoke
def test_models_options_quality_and_files(tmp_path):
    target = dataclasses.replace(sample.TARGET, revision="v2")
    source = dataclasses.replace(sample.SOURCE, embedding_hash="9" * 64)
    other = sample.contents(
        source=source,
        target=target,
        options={"seed": 0, "ridge": 0.5},
        quality={"1x1": {"words": 3, "held_out": 0, "relative_error": None, "cosine": None}},
        groups=None,
    )
    found = compare(tmp_path, sample.contents(), other)
    assert not found.same
    assert found.fits == {"source": False, "target": True}
    assert found.models == {
        "source": {"embedding_hash": ("b" * 64, "9" * 64)},
        "target": {"revision": ("", "v2")},
    }
    assert found.options == {"ridge": ("auto", 0.5), "min_words": (32, None)}
    assert found.quality["1x1"] == {"words": (2, 3)}
    assert found.quality["2x1"]["cosine"] == (0.75, None)
    assert set(found.files) == {"README.md", "groups.safetensors"}
    assert found.files["groups.safetensors"][1] is None


def test_relative_difference_of_adapters():
    first = {"1x1": torch.eye(3)[None], "2x1": torch.ones(2, 3, 3), "x": torch.zeros(1, 2, 2)}
    second = {"1x1": first["1x1"] * 1.25, "2x1": torch.ones(1, 3, 3), "y": torch.zeros(1, 2, 2)}
    found = adapter_differences(first, second)
    assert found == {"1x1": pytest.approx(0.25), "2x1": None, "x": None, "y": None}
    zero = {"x": torch.zeros(1, 2, 2)}
    assert adapter_differences(zero, {"x": torch.ones(1, 2, 2)}) == {"x": 2.0}
    assert adapter_differences(first, first) == {}
