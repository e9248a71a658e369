"""Least-squares problems over words, as streams of chunks that can be read more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from fuse_index.words.ragged import Ragged
    from fuse_index.words.table import WordTable

Rows = NDArray[np.int64]
Chunk = tuple[Tensor, Tensor]

# Elements of one token of one chunk: small enough for the working set of a chunk to stay in the
# last-level cache of a CPU, large enough for matrix products at full speed.
_CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 23}
_MIN_CHUNK_WORDS = 256


@dataclass(frozen=True)
class Problem:
    """Minimize ``||X * G - Y||`` over adapters ``G``, for words that are read in chunks.

    Attributes:
        k: tube length.
        rows: words.
        samples: rows of a face that generalized cross-validation counts.
        widths: source and target width.
        device: of the chunks.
        read: called with a floating dtype, yields ``X (p, m, source width)`` and ``Y (q, m, target
            width)``, ``p, q <= k``; the same words in the same order every time.
    """

    k: int
    rows: int
    samples: int
    widths: tuple[int, int]
    device: torch.device
    read: Callable[[torch.dtype], Iterator[Chunk]]


class WordStream:
    """Embeds chunks of words with both tables.

    Args:
        table: the words and their token ids.
        source: ``(source vocabulary, source width)`` floating.
        target: ``(target vocabulary, target width)`` floating, on the same device.
        chunk_words: words embedded at a time; ``None`` lets the widths decide.
    """

    def __init__(
        self, table: WordTable, source: Tensor, target: Tensor, chunk_words: int | None = None
    ) -> None:
        self._sides = ((table.source, source), (table.target, target))
        self.widths = (source.shape[1], target.shape[1])
        self.device = source.device
        elements = _CHUNK_ELEMENTS.get(source.device.type, _CHUNK_ELEMENTS["cuda"])
        self._size = chunk_words or max(_MIN_CHUNK_WORDS, elements // max(1, *self.widths))

    def read(self, rows: Rows, dtype: torch.dtype) -> Iterator[Chunk]:
        """Yield ``(p, m, source width)`` and ``(q, m, target width)`` for chunks of the words.

        ``p`` and ``q`` are the largest token counts among ``rows``; shorter words are zero-padded.
        """
        counts = [int(ids.lengths[rows].max(initial=0)) for ids, _ in self._sides]
        for start in range(0, len(rows), self._size):
            part = rows[start : start + self._size]
            source, target = (
                _embed(ids, embeddings, part, count, dtype)
                for (ids, embeddings), count in zip(self._sides, counts, strict=True)
            )
            yield source, target

    def target_mean(self, rows: Rows) -> Tensor:
        """Return the mean target embeddings of words of ``q`` target tokens, ``(q, width)``."""
        ids, embeddings = self._sides[1]
        count = int(ids.lengths[rows].max())
        total = torch.zeros(count, self.widths[1], dtype=torch.float64, device=self.device)
        for start in range(0, len(rows), self._size):
            part = rows[start : start + self._size]
            total += _embed(ids, embeddings, part, count, torch.float64).sum(1)
        return total / len(rows)

    def problem(self, rows: Rows, k: int) -> Problem:
        """The problem of one word group: words of at most ``k`` tokens on either side."""
        count = len(rows)

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            return self.read(rows, dtype)

        return Problem(k, count, count, self.widths, self.device, read)

    def shared_problem(self, rows: Rows, q: int) -> Problem:
        """The problem of words of one source and ``q`` target tokens.

        All faces of the source are equal, so it is one matrix problem with the target tokens side
        by side; its solution ``(1, source width, q * target width)`` holds the ``q`` faces.
        """

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            for source, target in self.read(rows, dtype):
                yield source, target.transpose(0, 1).flatten(1)[None]

        widths = (self.widths[0], q * self.widths[1])
        return Problem(1, len(rows), len(rows), widths, self.device, read)

    def summed_problem(self, rows: Rows) -> Problem:
        """The problem of the fallback: one matrix from the sum of a word's source tokens to each.

        ``sum_w sum_{t < q} ||u_w F - y_wt||^2`` differs by a constant from the problem with the
        rows ``sqrt(q) u_w`` and ``sum_t y_wt / sqrt(q)``.
        """
        counts = self._sides[1][0].lengths[rows]
        scales = np.sqrt(counts.astype(np.float64))

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            start = 0
            for source, target in self.read(rows, dtype):
                part = scales[start : start + source.shape[1]]
                scale = torch.from_numpy(part).to(source)[:, None]
                start += source.shape[1]
                yield (source.sum(0) * scale)[None], (target.sum(0) / scale)[None]

        return Problem(1, len(rows), int(counts.sum()), self.widths, self.device, read)


def _embed(ids: Ragged, embeddings: Tensor, rows: Rows, count: int, dtype: torch.dtype) -> Tensor:
    """Look up the tokens of words: ``(count, words, width)``, zero where a word is shorter."""
    positions = np.arange(count)[:, None]
    inside = positions < ids.lengths[rows]
    index = ids.values[np.where(inside, ids.offsets[rows] + positions, 0)]
    flat = torch.from_numpy(index.reshape(-1)).to(embeddings.device)
    tokens = embeddings.index_select(0, flat).to(dtype).view(count, len(rows), -1)
    if not inside.all():
        tokens[torch.from_numpy(~inside).to(embeddings.device)] = 0
    return tokens
