"""Groups in files: the same words, drawn and held out alike, and the same bits of the adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.adapter.fit import stream as streams
from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.fit import fit_adapter, fit_groups
from fuse_index.adapter.fit.groups import group_words
from fuse_index.adapter.fit.options import FitOptions, Grouping
from fuse_index.adapter.fit.stored import JoinedRows, StoredRows, StoredStream, store_groups
from fuse_index.words.table import WordTable
from tests.adapter.fit.fitting import CPU, draw, make_table

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


class Parts:
    """A table in parts of 50 words."""

    def __init__(self, table: WordTable) -> None:
        self._table = table

    def blocks(self):
        for start in range(0, len(self._table), 50):
            yield self._table.select(np.arange(start, min(start + 50, len(self._table))))


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_words_are_fitted_on_and_held_out(table, tmp_path, options):
    expected = group_words(table, options)
    found = store_groups(Parts(table), options, tmp_path)
    assert [(g.name, g.k, g.q, g.shared) for g in found] == [
        (g.name, g.k, g.q, g.shared) for g in expected
    ]
    for mine, theirs in zip(found, expected, strict=True):
        for rows, indices in ((mine.train, theirs.train), (mine.held_out, theirs.held_out)):
            values = rows.read()
            source = [row[: rows.p][row[: rows.p] >= 0].tolist() for row in values]
            target = [row[rows.p :][row[rows.p :] >= 0].tolist() for row in values]
            assert source == [table.source[i].tolist() for i in indices]
            assert target == [table.target[i].tolist() for i in indices]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shard", [1 << 18, 32])
def test_fits_from_files_have_the_same_bits(table, tmp_path, options, shard, monkeypatch):
    monkeypatch.setattr(streams, "SHARD_WORDS", shard)
    source, target = (draw(n, 200, w, dtype=torch.float32) for n, w in ((10, 16), (11, 6)))
    expected = fit_adapter(table, source, target, options)
    groups = store_groups(Parts(table), options, tmp_path)
    with Workers(CPU) as workers:
        stream = StoredStream(source, target, workers=workers, chunk_words=options.chunk_words)
        found = fit_groups(stream, groups, options)
    assert found.adapters.keys() == expected.adapters.keys()
    for name, adapter in expected.adapters.items():
        assert torch.equal(found.adapters[name], adapter)
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
        parts.append(StoredRows(ids, 1, 1, 0, length))
        start += length
    joined = JoinedRows(tuple(parts))
    low = data.draw(st.integers(0, total))
    high = data.draw(st.integers(low, total))
    part = joined[low:high]
    assert len(part) == high - low
    values = [row[0] for rows in part.parts for row in rows.read().tolist()]
    assert values == list(range(low, high))
