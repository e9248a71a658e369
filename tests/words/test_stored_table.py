"""Word tables in parts against the same in memory."""

from __future__ import annotations

import numpy as np

from fuse_index.words.ragged import Ragged
from fuse_index.words.stored_table import StoredTable, pack_part, read_left_out
from fuse_index.words.table import WordTable

TABLE = WordTable(
    ("the", "naïve", "日本", "x|y", "rest"),
    np.array([40, 7, 3, 1, 1]),
    Ragged.from_lists([[1], [2, 3], [4, 5], [11], [0, 6, 7]]),
    Ragged.from_lists([[8], [1], [2], [0], [3, 4]]),
)


def test_parts_are_the_table(tmp_path):
    paths = []
    for number, rows in enumerate(([0, 1], [], [2, 3, 4])):
        paths.append(tmp_path / f"{number}.npz")
        part = TABLE.select(np.array(rows, np.int64))
        paths[-1].write_bytes(pack_part(part, {"source: no tokens": number}))
    stored = StoredTable.open(paths)
    assert (len(stored), stored.sizes()) == (5, TABLE.sizes())
    whole = WordTable.concatenate(list(stored.blocks()))
    assert tuple(whole.words) == TABLE.words
    assert whole.counts.tolist() == TABLE.counts.tolist()
    assert whole.source.equals(TABLE.source)
    assert whole.target.equals(TABLE.target)
    assert [read_left_out(path)["source: no tokens"] for path in paths] == [0, 1, 2]
