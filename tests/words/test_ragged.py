from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import ShapeError
from fuse_index.words.ragged import Ragged

ROWS = st.lists(st.lists(st.integers(-5, 5), max_size=4), max_size=6)


@given(ROWS)
def test_lists_round_trip(rows):
    ragged = Ragged.from_lists(rows)
    assert ragged.to_lists() == rows
    assert [row.tolist() for row in ragged] == rows
    assert [ragged[i].tolist() for i in range(len(ragged))] == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.offsets.dtype == ragged.values.dtype == np.int64


@given(ROWS, st.data())
def test_select_picks_rows_by_index_and_mask(rows, data):
    ragged = Ragged.from_lists(rows)
    picks = data.draw(
        st.lists(st.integers(-len(rows), len(rows) - 1), max_size=5) if rows else st.just([])
    )
    assert ragged.select(picks).to_lists() == [rows[i] for i in picks]
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    chosen = ragged.select(np.array(mask, np.bool_))
    assert chosen.to_lists() == [row for row, keep in zip(rows, mask, strict=True) if keep]


@given(ROWS, st.integers(0, 3))
def test_padded_fills_on_the_right(rows, extra):
    ragged = Ragged.from_lists(rows)
    width = max((len(row) for row in rows), default=0) + extra
    assert ragged.padded(width, fill=9).tolist() == [row + [9] * (width - len(row)) for row in rows]
    assert ragged.padded().shape == (len(rows), width - extra)


def test_equals_compares_rows():
    assert Ragged.from_lists([[1], [2]]).equals(Ragged.from_lists([[1], [2]]))
    assert not Ragged.from_lists([[1], [2]]).equals(Ragged.from_lists([[1, 2], []]))
    assert not Ragged.from_lists([[1], [2]]).equals(Ragged.from_lists([[1], [3]]))


@pytest.mark.parametrize(
    ("offsets", "values", "message"),
    [
        ([0, 2], [1], "the last offset is 2, but there are 1 values"),
        ([1, 2], [1, 2], "an array that rises from 0"),
        ([0, 2, 1], [1], "an array that rises from 0"),
        ([], [], "an array that rises from 0"),
        ([0, 1], [0.5], "values of shape (1,) and dtype float64"),
        ([[0, 1]], [1], "offsets of shape (1, 2)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(offsets, values, message):
    with pytest.raises(ShapeError) as error:
        Ragged(np.array(offsets), np.array(values))
    assert message in str(error.value)


def test_other_errors_say_what_fits():
    ragged = Ragged.from_lists([[1, 2, 3], [4]])
    with pytest.raises(ShapeError, match=r"a row of 3 values; expected at most width=2"):
        ragged.padded(2)
    with pytest.raises(ShapeError, match=r"mask of shape \(3,\); expected \(2,\)"):
        ragged.select(np.array([True, False, True]))
    with pytest.raises(IndexError, match="row 2 of 2"):
        ragged[2]
