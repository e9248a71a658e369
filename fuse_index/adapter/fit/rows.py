"""The words of a fit as rows of token ids, in memory or in files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.words.corpus.stored import StoredArray

Ids = NDArray[Any]
"""``(tokens, words)`` integers, -1 beyond the tokens of a word."""


@dataclass(frozen=True)
class Segment:
    """Consecutive words of one group.

    Attributes:
        ids: ``(n, p + q)`` integers, one row a word: its source tokens, then its target tokens,
            each padded with -1.
        p: columns of source tokens.
        q: columns of target tokens.
        start: the first word.
        stop: the word to stop before.
    """

    ids: NDArray[Any] | StoredArray
    p: int
    q: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class WordRows:
    """Words of one or several groups, one after the other; slices of it are read when needed."""

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, ids: NDArray[Any] | StoredArray, p: int, q: int) -> WordRows:
        """Return the words of one group; see :class:`Segment`."""
        return cls((Segment(ids, p, q, 0, len(ids)),))

    @classmethod
    def join(cls, parts: Iterable[WordRows]) -> WordRows:
        """Return the words of all parts, one after the other."""
        return cls(tuple(segment for rows in parts for segment in rows.segments))

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def __getitem__(self, part: slice) -> WordRows:
        start, stop, _ = part.indices(len(self))
        kept, before = [], 0
        for segment in self.segments:
            low, high = max(start - before, 0), min(stop - before, len(segment))
            if low < high:
                first = segment.start
                kept.append(replace(segment, start=first + low, stop=first + high))
            before += len(segment)
        return WordRows(tuple(kept))

    @property
    def target_tokens(self) -> int:
        """Target tokens of all words; the words of a group have equally many."""
        return sum(segment.q * len(segment) for segment in self.segments)

    def tokens(self) -> tuple[Ids, Ids]:
        """Read the token ids, ``(p, n)`` and ``(q, n)``, of the largest counts among the words."""
        read = [(segment.p, segment.ids[segment.start : segment.stop]) for segment in self.segments]
        source = _stacked([ids[:, :p] for p, ids in read])
        return source, _stacked([ids[:, p:] for p, ids in read])


def _stacked(sides: list[NDArray[Any]]) -> Ids:
    """Join rows of ids of one side, and turn them to ``(tokens, words)``."""
    widest = max(side.shape[1] for side in sides)
    padded = [
        np.pad(side, ((0, 0), (0, widest - side.shape[1])), constant_values=-1) for side in sides
    ]
    ids = padded[0] if len(padded) == 1 else np.concatenate(padded)
    most = int((ids >= 0).sum(1).max(initial=1))
    return np.ascontiguousarray(ids[:, :most].T)
