"""Groups in files: the same words, drawn and held out alike, and the same bits of the adapters."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.adapter.fit import stream as streams
from fuse_index.adapter.fit.fit import fit_adapter
from fuse_index.adapter.fit.groups import group_words
from fuse_index.adapter.fit.options import FitOptions, Grouping
from fuse_index.adapter.fit.rows import WordRows
from fuse_index.adapter.fit.store import FitStore
from fuse_index.words.stored_table import StoredTable
from fuse_index.words.table import WordTable
from tests.adapter.fit.fitting import draw, make_table, numbered_groups

GROUPS = {(1, 1): 90, (1, 3): 70, (2, 1): 60, (2, 2): 80, (3, 4): 70, (4, 4): 9, (4, 2): 3}
OPTIONS = [
    FitOptions(min_words=5),
    FitOptions(min_words=5, grouping=Grouping.TARGET, max_words=40, seed=3),
    FitOptions(min_words=2, ridge=0.1, max_words=25, holdout=0.4, chunk_words=7),
    FitOptions(min_words=5, ridge=0.0, holdout=0.0, chunk_words=16),
]


@pytest.fixture(scope="module")
def table():
    return make_table(GROUPS, vocabulary=200)


def parts_of(table: WordTable) -> StoredTable:
    """The table in parts of 50 words."""
    ranges = [np.arange(start, min(start + 50, len(table))) for start in range(0, len(table), 50)]
    return StoredTable([partial(table.select, rows) for rows in ranges])


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_words_are_fitted_on_and_held_out(table, tmp_path, options):
    expected = group_words(table, options)
    (tmp_path / "wide").mkdir()
    for found in (
        group_words(parts_of(table), options),
        group_words(parts_of(table), options, tmp_path),
        group_words(parts_of(table), options, tmp_path / "wide", wide=True),
    ):
        assert [(g.name, g.k, g.q, g.shared) for g in found] == [
            (g.name, g.k, g.q, g.shared) for g in expected
        ]
        for mine, theirs in zip(found, expected, strict=True):
            for name in ("train", "held_out"):
                both = getattr(mine, name).tokens(), getattr(theirs, name).tokens()
                assert [side.tolist() for side in both[0]] == [side.tolist() for side in both[1]]


@pytest.mark.parametrize("options", OPTIONS)
def test_rows_hold_the_tokens_of_their_words(table, options):
    groups, numbers = group_words(table, options), numbered_groups(table, options)
    for group, numbered in zip(groups, numbers, strict=True):
        for name in ("train", "held_out"):
            sides = getattr(group, name).tokens()
            for ids, side in zip(sides, (table.source, table.target), strict=True):
                found = [column[column >= 0].tolist() for column in ids.T]
                assert found == [side[row].tolist() for row in getattr(numbered, name)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shard", [1 << 18, 32])
def test_fits_from_files_have_the_same_bits(table, tmp_path, options, shard, monkeypatch):
    monkeypatch.setattr(streams, "SHARD_WORDS", shard)
    source, target = (draw(n, 200, w, dtype=torch.float32) for n, w in ((10, 16), (11, 6)))
    expected = fit_adapter(table, source, target, options)
    store = FitStore(tmp_path)
    for again in (False, True):  # the second time all is recalled
        found = fit_adapter(parts_of(table), source, target, options, store=store)
        assert found.adapters.keys() == expected.adapters.keys()
        for name, adapter in expected.adapters.items():
            assert torch.equal(found.adapters[name], adapter), again
        assert found.quality == expected.quality
        assert (found.ridges, found.methods) == (expected.ridges, expected.methods)
        assert found.fallbacks == expected.fallbacks


def test_sums_of_shards_are_sums(table, monkeypatch):
    """Another order of adding up changes the last digits only."""
    options = FitOptions(min_words=5, ridge=0.01, holdout=0.0, chunk_words=8)
    source, target = (draw(n, 200, w, dtype=torch.float32) for n, w in ((10, 16), (11, 6)))
    whole = fit_adapter(table, source, target, options)
    monkeypatch.setattr(streams, "SHARD_WORDS", 24)
    parts = fit_adapter(table, source, target, options)
    for name, adapter in whole.adapters.items():
        torch.testing.assert_close(parts.adapters[name], adapter, rtol=1e-5, atol=1e-7)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.data())
def test_slices_of_joined_rows_are_slices(lengths, data):
    total = sum(lengths)
    parts, start = [], 0
    for length in lengths:
        ids = np.arange(start, start + length, dtype=np.int32)[:, None].repeat(2, 1)
        parts.append(WordRows.of(ids, 1, 1))
        start += length
    joined = WordRows.join(parts)
    low = data.draw(st.integers(0, total))
    high = data.draw(st.integers(low, total))
    part = joined[low:high]
    assert len(part) == high - low
    assert part.target_tokens == high - low
    if high > low:
        assert [side.tolist() for side in part.tokens()] == [[list(range(low, high))]] * 2
