"""Rows of different lengths, stored as one array of values and one of offsets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.errors import ShapeError

Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ragged:
    """``n`` rows of int64 values; row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Args:
        offsets: ``(n + 1,)`` int64, starts at 0 and never decreases.
        values: ``(offsets[-1],)`` int64.

    Raises:
        ShapeError: if the two arrays do not fit together.
    """

    offsets: Int64
    values: Int64

    def __post_init__(self) -> None:
        offsets = _as_int64("offsets", self.offsets)
        values = _as_int64("values", self.values)
        if not len(offsets) or offsets[0] != 0 or bool((np.diff(offsets) < 0).any()):
            raise ShapeError(
                f"Ragged: offsets {_short(offsets)}", expected="an array that rises from 0"
            )
        if offsets[-1] != len(values):
            raise ShapeError(
                f"Ragged: the last offset is {offsets[-1]}, but there are {len(values)} values",
                expected="the two to be equal",
            )
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "values", values)

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int]]) -> Ragged:
        """Pack lists (or arrays) of integers.

        Args:
            rows: one sequence of integers per row.

        Returns:
            The packed rows.
        """
        rows = list(rows)
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        offsets = offsets_of(lengths)
        values = np.fromiter(chain.from_iterable(rows), np.int64, int(offsets[-1]))
        return cls(offsets, values)

    @classmethod
    def from_rows(cls, rows: Int64) -> Ragged:
        """Pack a rectangle ``(n, L)`` of values."""
        return cls(np.arange(len(rows) + 1) * rows.shape[1], rows.reshape(-1))

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """Join rows of rows, one after the other."""
        if len(parts) == 1:
            return parts[0]
        lengths = [part.lengths for part in parts]
        values = [part.values for part in parts]
        empty = np.empty(0, np.int64)
        return cls(offsets_of(np.concatenate([empty, *lengths])), np.concatenate([empty, *values]))

    @property
    def lengths(self) -> Int64:
        """``(n,)`` int64: the number of values in each row."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Int64:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[Int64]:
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.values[start:stop]

    def equals(self, other: Ragged) -> bool:
        """Whether both hold the same rows."""
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(
            self.values, other.values
        )

    def to_lists(self) -> list[list[int]]:
        """The rows as lists of Python integers."""
        values, bounds = self.values.tolist(), self.offsets.tolist()
        return [values[a:b] for a, b in pairwise(bounds)]

    def select(self, rows: Any) -> Ragged:
        """Pick rows by index (any order, repeats allowed) or by a boolean mask.

        Args:
            rows: ``(m,)`` integers in ``[-n, n)``, or ``(n,)`` booleans.

        Returns:
            ``m`` rows.

        Raises:
            ShapeError: if the mask does not have one entry per row.
            IndexError: if an index is outside the rows.
        """
        rows = np.asarray(rows)
        if rows.dtype == np.bool_:
            if rows.shape != (len(self),):
                raise ShapeError(f"mask of shape {rows.shape}", expected=f"({len(self)},)")
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64, copy=False).reshape(-1)
        starts, lengths = self.offsets[:-1][rows], self.lengths[rows]
        offsets = offsets_of(lengths)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(offsets, self.values[np.repeat(starts, lengths) + within])

    def padded(self, width: int | None = None, fill: int = -1) -> Int64:
        """The rows as a rectangle, padded on the right.

        Args:
            width: columns of the result; the longest row's length when None.
            fill: the value of the padding.

        Returns:
            ``(n, width)`` int64.

        Raises:
            ShapeError: if a row is longer than ``width``.
        """
        lengths = self.lengths
        longest = int(lengths.max(initial=0))
        width = longest if width is None else width
        if longest > width:
            raise ShapeError(
                f"padded: a row of {longest} values", expected=f"at most width={width} values"
            )
        out = np.full((len(self), width), fill, np.int64)
        out[np.arange(width) < lengths[:, None]] = self.values
        return out


def offsets_of(lengths: Int64) -> Int64:
    """``(n,)`` lengths to ``(n + 1,)`` offsets, both int64."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _as_int64(name: str, array: Any) -> Int64:
    array = np.asarray(array)
    if array.ndim != 1 or not (array.dtype.kind in "iu" or array.size == 0):
        raise ShapeError(
            f"Ragged: {name} of shape {array.shape} and dtype {array.dtype}",
            expected="a vector of integers",
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def _short(array: Int64) -> str:
    return np.array2string(array, threshold=8, edgeitems=3)
