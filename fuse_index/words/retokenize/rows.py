"""Rows of ids on their way through the retokenizer: checked, and put together again."""

from __future__ import annotations

from typing import Any

import numpy as np

from fuse_index.errors import ShapeError, VocabularyError
from fuse_index.words.ragged import Int64, offsets_of
from fuse_index.words.retokenize.parts import Pass

ConvertedRow = tuple[list[int], list[int], list[int]]
"""The target's ids of one row, and the source and target tokens of its words."""


def checked_rows(ids: Any, lengths: Any, vocab_size: int) -> tuple[Int64, Int64]:
    """Rows of ids and their lengths as contiguous int64.

    Args:
        ids: ``(n, L)`` integers; what lies beyond a row's length is not looked at.
        lengths: ``(n,)`` integers from 0 to L; None stands for L.
        vocab_size: one more than the highest id allowed.

    Raises:
        ShapeError: if the arrays are not of these shapes and kinds.
        VocabularyError: if an id is out of range.
    """
    try:
        ids = np.asarray(ids)
    except ValueError as error:
        raise ShapeError(
            "retokenize: rows of different lengths",
            expected="integers of shape (n, L), and their lengths beside",
        ) from error
    if ids.ndim != 2 or (ids.dtype.kind not in "iu" and ids.size):
        raise ShapeError(
            f"retokenize: ids of shape {ids.shape} and dtype {ids.dtype}",
            expected="integers of shape (n, L)",
        )
    ids = np.ascontiguousarray(ids, np.int64)
    if lengths is None:
        lengths, inside = np.full(len(ids), ids.shape[1], np.int64), ids
    else:
        lengths = _checked_lengths(lengths, *ids.shape)
        inside = ids[np.arange(ids.shape[1]) < lengths[:, None]]
    if inside.size and (inside.min() < 0 or inside.max() >= vocab_size):
        bad = inside[(inside < 0) | (inside >= vocab_size)][0]
        raise VocabularyError(
            f"retokenize: token id {bad}",
            expected=f"ids from 0 to {vocab_size - 1} of the source tokenizer",
            remedy="mask the rows of the embedding table that no token uses",
        )
    return ids, lengths


def _checked_lengths(lengths: Any, rows: int, width: int) -> Int64:
    """Row lengths as int64, from 0 to the number of columns."""
    lengths = np.asarray(lengths)
    if lengths.shape != (rows,) or (lengths.dtype.kind not in "iu" and rows):
        raise ShapeError(
            f"retokenize: lengths of shape {lengths.shape} and dtype {lengths.dtype}",
            expected=f"integers of shape ({rows},)",
        )
    checked: Int64 = np.ascontiguousarray(lengths, np.int64)
    if rows and (checked.min() < 0 or checked.max() > width):
        raise ShapeError(
            f"retokenize: lengths from {checked.min()} to {checked.max()}",
            expected=f"0 to {width}, the columns of ids",
        )
    return checked


def with_rows(found: Pass, rows: Int64, results: list[ConvertedRow]) -> Pass:
    """Put rows that the tokenizers converted among those of a pass.

    Args:
        found: the pass, in which these rows have neither ids nor words.
        rows: ``(m,)`` int64, which rows they are, rising.
        results: what the tokenizers made of them.

    Returns:
        The pass with all rows.
    """
    columns = []
    for counts, values, place in (
        (found.target_counts, (found.target,), (0,)),
        (found.word_counts, (found.p, found.q), (1, 2)),
    ):
        sizes = np.array([len(result[place[0]]) for result in results], np.int64)
        spots = np.repeat(offsets_of(counts)[rows], sizes)
        merged = counts.copy()
        merged[rows] = sizes
        columns.append(merged)
        for column, which in zip(values, place, strict=True):
            fresh = np.array([x for result in results for x in result[which]], np.int64)
            columns.append(np.insert(column, spots, fresh))
    target_counts, target, word_counts, p, q = columns
    return Pass(found.status, target_counts, target, word_counts, p, q, set())
