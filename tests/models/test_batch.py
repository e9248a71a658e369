from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import ModelError, ShapeError
from fuse_index.models.batch import build_batch
from fuse_index.models.frame import Frame
from fuse_index.words.ragged import Ragged

FRAME = Frame(head=(1,), tail=(2, 3), pad=0)
ROWS = st.lists(st.lists(st.integers(10, 20), max_size=6), min_size=1, max_size=5)


def test_layout_of_a_small_batch() -> None:
    batch = build_batch([[10, 11, 12], [13]], FRAME, prefix=[7, 8], suffix=[9])
    assert batch.ids.tolist() == [
        [1, 7, 8, 10, 11, 12, 9, 2, 3],
        [1, 7, 8, 13, 9, 2, 3, 0, 0],
    ]
    assert batch.mask.long().sum(dim=1).tolist() == batch.totals.tolist() == [9, 7]
    assert batch.start == 3
    assert batch.lengths.tolist() == [3, 1]
    assert batch.last.tolist() == [8, 6]
    assert batch.shared == (1, 7, 8)
    assert batch.shortest == 7
    assert batch.content.nonzero().tolist() == [[0, 3], [0, 4], [0, 5], [1, 3]]
    assert len(batch) == 2


@given(ROWS, st.lists(st.integers(30, 40), max_size=3), st.lists(st.integers(50, 60), max_size=3))
def test_rows_are_framed_content(
    rows: list[list[int]], prefix: list[int], suffix: list[int]
) -> None:
    batch = build_batch(Ragged.from_lists(rows), FRAME, prefix=prefix, suffix=suffix)
    assert batch.ids[batch.content].tolist() == [i for row in rows for i in row]
    for ids, mask, row in zip(batch.ids, batch.mask, rows, strict=True):
        assert ids[mask].tolist() == [1, *prefix, *row, *suffix, 2, 3]
        assert (ids[~mask] == FRAME.pad).all()
    framed = [[1, *prefix, *row, *suffix, 2, 3] for row in rows]
    assert all(row[: len(batch.shared)] == list(batch.shared) for row in framed)
    longer = {tuple(row[: len(batch.shared) + 1]) for row in framed}
    assert len(longer) > 1 or min(map(len, framed)) == len(batch.shared)


def test_fixed_width_pads_every_row() -> None:
    batch = build_batch([[10]], Frame((), (2,), pad=2, width=5))
    assert batch.ids.tolist() == [[10, 2, 2, 2, 2]]
    assert batch.mask.tolist() == [[True, True, False, False, False]]


def test_too_long_row_names_lengths_and_limit() -> None:
    with pytest.raises(ModelError) as error:
        build_batch([[10], [10] * 4], FRAME, prefix=[7], suffix=[8, 8], limit=9, name="tiny")
    assert str(error.value) == (
        "tiny: row 1 has 10 tokens (3 special, 1 of the prefix, 4 of the content, 2 of the "
        "suffix); expected at most 9, the model's positions; shorten the prompt, the prefix or the "
        "suffix"
    )
    assert build_batch([[10] * 3], FRAME, prefix=[7], suffix=[8, 8], limit=9).ids.shape == (1, 9)


def test_no_rows() -> None:
    with pytest.raises(ShapeError, match="0 rows"):
        build_batch([], FRAME)


def test_types() -> None:
    batch = build_batch([[10]], FRAME)
    assert batch.ids.dtype == batch.lengths.dtype == torch.int64
    assert batch.mask.dtype == batch.content.dtype == torch.bool
