"""Least-squares problems over words, as streams of chunks that can be read more than once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter._workers import Workers

if TYPE_CHECKING:
    from fuse_index.words.ragged import Ragged
    from fuse_index.words.table import WordTable

Rows = NDArray[np.int64]
Chunk = tuple[Tensor, Tensor]

# Elements of one token of one chunk: small enough for the working set of a chunk to stay in the
# last-level cache of a CPU, large enough for matrix products at full speed.
_CHUNK_ELEMENTS = {"cpu": 3 << 18, "cuda": 1 << 23}
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
        workers: for everything that is computed.
        read: called with a floating dtype, yields ``X (p, m, source width)`` and ``Y (q, m, target
            width)``, ``p, q <= k``, valid until the next; the same words in the same order every
            time.
    """

    k: int
    rows: int
    samples: int
    widths: tuple[int, int]
    device: torch.device
    workers: Workers
    read: Callable[[torch.dtype], Iterator[Chunk]]


class Buffer:
    """Memory that is used again, so that chunk after chunk does not fragment the heap."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def take(self, shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor that is valid until the next call; the content is not set.

        Args:
            shape: of the tensor.
            like: gives the device.
            dtype: of the tensor.
        """
        size = math.prod(shape)
        memory = self._memory
        if memory.numel() < size or memory.dtype != dtype or memory.device != like.device:
            self._memory = memory = torch.empty(size, dtype=dtype, device=like.device)
        return memory[:size].view(*shape)


class WordStream:
    """Embeds chunks of words with both tables.

    Args:
        table: the words and their token ids.
        source: ``(source vocabulary, source width)`` floating.
        target: ``(target vocabulary, target width)`` floating, on the same device.
        workers: for everything that is computed.
        chunk_words: words embedded at a time; ``None`` lets the widths decide.
    """

    def __init__(
        self,
        table: WordTable,
        source: Tensor,
        target: Tensor,
        *,
        workers: Workers,
        chunk_words: int | None = None,
    ) -> None:
        self._sides = ((table.source, source.detach()), (table.target, target.detach()))
        self.workers = workers
        self.widths = (source.shape[1], target.shape[1])
        self.device = source.device
        elements = _CHUNK_ELEMENTS.get(source.device.type, _CHUNK_ELEMENTS["cuda"])
        self._size = chunk_words or max(_MIN_CHUNK_WORDS, elements // max(1, *self.widths))

    def parts(self, rows: Rows) -> list[Rows]:
        """Cut words into chunks."""
        return [rows[start : start + self._size] for start in range(0, len(rows), self._size)]

    def embed(self, rows: Rows, dtype: torch.dtype) -> Chunk:
        """Return ``(p, m, source width)`` and ``(q, m, target width)`` for one chunk.

        ``p`` and ``q`` are the largest token counts among ``rows``; shorter words are zero-padded.
        """
        source, target = (_embed(ids, table, rows, dtype, Buffer()) for ids, table in self._sides)
        return source, target

    def read(self, rows: Rows, dtype: torch.dtype) -> Iterator[Chunk]:
        """Yield the embedded chunks of the words; each is valid until the next is read."""
        buffers = [Buffer() for _ in self._sides]
        for part in self.parts(rows):
            source, target = (
                _embed(ids, table, part, dtype, buffer)
                for (ids, table), buffer in zip(self._sides, buffers, strict=True)
            )
            yield source, target

    def target_mean(self, rows: Rows) -> Tensor:
        """Return the mean target embeddings of words of ``q`` target tokens, ``(q, width)``."""
        ids, embeddings = self._sides[1]
        sums = self.workers.map(
            lambda part: _embed(ids, embeddings, part, torch.float64, Buffer()).sum(1),
            self.parts(rows),
        )
        return torch.stack(sums).sum(0) / len(rows)

    def problem(self, rows: Rows, k: int) -> Problem:
        """The problem of one word group: words of at most ``k`` tokens on either side."""
        count = len(rows)

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            return self.read(rows, dtype)

        return Problem(k, count, count, self.widths, self.device, self.workers, read)

    def shared_problem(self, rows: Rows, q: int) -> Problem:
        """The problem of words of one source and ``q`` target tokens.

        All faces of the source are equal, so it is one matrix problem with the target tokens side
        by side; its solution ``(1, source width, q * target width)`` holds the ``q`` faces.
        """

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            for source, target in self.read(rows, dtype):
                yield source, target.transpose(0, 1).flatten(1)[None]

        widths = (self.widths[0], q * self.widths[1])
        return Problem(1, len(rows), len(rows), widths, self.device, self.workers, read)

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

        return Problem(
            1, len(rows), int(counts.sum()), self.widths, self.device, self.workers, read
        )


def _embed(
    ids: Ragged, embeddings: Tensor, rows: Rows, dtype: torch.dtype, buffer: Buffer
) -> Tensor:
    """Look up the tokens of words: ``(tokens, words, width)``, zero where a word is shorter."""
    starts = ids.offsets[rows]
    lengths = ids.offsets[rows + 1] - starts
    positions = np.arange(lengths.max())[:, None]
    inside = positions < lengths
    index = ids.values[np.where(inside, starts + positions, 0)]
    flat = torch.from_numpy(index.reshape(-1)).to(embeddings.device)
    shape = (*index.shape, embeddings.shape[1])
    tokens = buffer.take(shape, embeddings, dtype)
    if embeddings.dtype == dtype:
        torch.index_select(embeddings, 0, flat, out=tokens.view(len(flat), -1))
    else:
        tokens.view(len(flat), -1).copy_(embeddings.index_select(0, flat))
    if not inside.all():
        tokens[torch.from_numpy(~inside).to(embeddings.device)] = 0
    return tokens
