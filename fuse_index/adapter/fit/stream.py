"""Least-squares problems over words, as streams of chunks that can be read more than once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.rows import Ids, WordRows
from fuse_index.bundle.tensors import Vectors

Chunk = tuple[Tensor, Tensor]

# Elements of one token of one chunk: small enough for the working set of a chunk to stay in the
# last-level cache of a CPU, large enough for matrix products at full speed.
_CHUNK_ELEMENTS = {"cpu": 3 << 18, "cuda": 1 << 23}
_MIN_CHUNK_WORDS = 256
_MEAN_CHUNKS = 4096  # chunks whose sums are held and added up at once
SHARD_WORDS = 1 << 18
"""About so many words of a group are summed by themselves, from the first to the last, before
their sums are added to those of the words before them. The bits of an adapter depend on it, but
not on where, or in how many sittings, the shards were summed."""


@dataclass(frozen=True)
class LeastSquares:
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
        shards: how the words may be summed apart from each other; ``None`` where they may not.
    """

    k: int
    rows: int
    samples: int
    widths: tuple[int, int]
    device: torch.device
    workers: Workers
    read: Callable[[torch.dtype], Iterator[Chunk]]
    shards: Shards | None = None


@dataclass(frozen=True)
class Shards:
    """The words of a problem in ranges of fixed length, whose sums are added up in this order.

    Attributes:
        words: of every range but the last.
        chunk: words embedded at a time.
        shared: whether it is a :meth:`WordStream.shared_problem`.
        problem: called with the first word and the one to stop before, the problem of these only.
        tokens: called with the same, their token ids as :meth:`WordRows.tokens` gives them.
    """

    words: int
    chunk: int
    shared: bool
    problem: Callable[[int, int], LeastSquares]
    tokens: Callable[[int, int], tuple[Ids, Ids]]


class Buffer:
    """Memory that is used again, so that chunk after chunk does not fragment the heap."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def take(self, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor that is valid until the next call; the content is not set.

        Args:
            shape: of the tensor.
            device: of the tensor.
            dtype: of the tensor.
        """
        size = math.prod(shape)
        memory = self._memory
        if memory.numel() < size or memory.dtype != dtype or memory.device != device:
            self._memory = memory = torch.empty(size, dtype=dtype, device=device)
        return memory[:size].view(*shape)


class WordStream:
    """Embeds chunks of words with the vectors of both models.

    Args:
        source: ``(n, source width)`` floating: the embedding table, or all vectors of the group
            tensors; token ids are positions in it.
        target: ``(m, target width)``, likewise, on the same device.
        workers: for everything that is computed.
        chunk_words: words embedded at a time; ``None`` lets the widths decide.
    """

    def __init__(
        self, source: Vectors, target: Vectors, *, workers: Workers, chunk_words: int | None = None
    ) -> None:
        self._tables = (source, target)
        self.workers = workers
        self.widths = (source.shape[1], target.shape[1])
        self.device = source.device
        elements = _CHUNK_ELEMENTS.get(source.device.type, _CHUNK_ELEMENTS["cuda"])
        self._size = chunk_words or max(_MIN_CHUNK_WORDS, elements // max(1, *self.widths))

    def parts(self, rows: WordRows) -> list[WordRows]:
        """Cut words into chunks."""
        return [rows[start : start + self._size] for start in range(0, len(rows), self._size)]

    def embed(self, rows: WordRows, dtype: torch.dtype) -> Chunk:
        """Return ``(p, m, source width)`` and ``(q, m, target width)`` for one chunk.

        ``p`` and ``q`` are the largest token counts among ``rows``; shorter words are zero-padded.
        """
        source, target = (
            _embed(ids, table, dtype, Buffer())
            for ids, table in zip(rows.tokens(), self._tables, strict=True)
        )
        return source, target

    def read(self, rows: WordRows, dtype: torch.dtype) -> Iterator[Chunk]:
        """Yield the embedded chunks of the words; each is valid until the next is read."""
        for source, target, _ in self._read(rows, dtype):
            yield source, target

    def _read(self, rows: WordRows, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Ids]]:
        """Yield chunks, and the target ids of their words."""
        buffers = Buffer(), Buffer()
        for start in range(0, len(rows), self._size):
            ids = rows[start : start + self._size].tokens()
            source, target = (
                _embed(side, table, dtype, buffer)
                for side, table, buffer in zip(ids, self._tables, buffers, strict=True)
            )
            yield source, target, ids[1]

    def target_mean(self, rows: WordRows) -> Tensor:
        """Return the mean target embeddings of words of ``q`` target tokens, ``(q, width)``."""
        blocks = []
        for start in range(0, len(rows), self._size * _MEAN_CHUNKS):
            block = rows[start : start + self._size * _MEAN_CHUNKS]
            sums = self.workers.map(self._target_sum, self.parts(block))
            blocks.append(torch.stack(sums).sum(0))
        return sum(blocks[1:], blocks[0]) / len(rows)

    def _target_sum(self, rows: WordRows) -> Tensor:
        return _embed(rows.tokens()[1], self._tables[1], torch.float64, Buffer()).sum(1)

    def problem(self, rows: WordRows, k: int) -> LeastSquares:
        """The problem of one word group: words of at most ``k`` tokens on either side."""
        count = len(rows)

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            return self.read(rows, dtype)

        shards = self._shards(rows, shared=False, problem=lambda part: self.problem(part, k))
        return LeastSquares(k, count, count, self.widths, self.device, self.workers, read, shards)

    def shared_problem(self, rows: WordRows, q: int) -> LeastSquares:
        """The problem of words of one source and ``q`` target tokens.

        All faces of the source are equal, so it is one matrix problem with the target tokens side
        by side; its solution ``(1, source width, q * target width)`` holds the ``q`` faces.
        """

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            for source, target in self.read(rows, dtype):
                yield source, target.transpose(0, 1).flatten(1)[None]

        count, widths = len(rows), (self.widths[0], q * self.widths[1])
        shards = self._shards(rows, shared=True, problem=lambda part: self.shared_problem(part, q))
        return LeastSquares(1, count, count, widths, self.device, self.workers, read, shards)

    def summed_problem(self, rows: WordRows) -> LeastSquares:
        """The problem of the fallback: one matrix from the sum of a word's source tokens to each.

        ``sum_w sum_{t < q} ||u_w F - y_wt||^2`` differs by a constant from the problem with the
        rows ``sqrt(q) u_w`` and ``sum_t y_wt / sqrt(q)``.
        """

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            for source, target, ids in self._read(rows, dtype):
                scales = np.sqrt((ids >= 0).sum(0).astype(np.float64))
                scale = torch.from_numpy(scales).to(source)[:, None]
                yield (source.sum(0) * scale)[None], (target.sum(0) / scale)[None]

        return LeastSquares(
            1, len(rows), rows.target_tokens, self.widths, self.device, self.workers, read
        )

    def _shards(
        self, rows: WordRows, *, shared: bool, problem: Callable[[WordRows], LeastSquares]
    ) -> Shards:
        return Shards(
            max(1, SHARD_WORDS // self._size) * self._size,
            self._size,
            shared,
            lambda start, stop: problem(rows[start:stop]),
            lambda start, stop: rows[start:stop].tokens(),
        )


def _embed(ids: Ids, embeddings: Vectors, dtype: torch.dtype, buffer: Buffer) -> Tensor:
    """Look up the tokens of words: ``(tokens, words, width)``, zero where a word is shorter."""
    outside = ids < 0
    index = np.where(outside, 0, ids).astype(np.int64, copy=False)
    flat = torch.from_numpy(index.reshape(-1)).to(embeddings.device)
    shape = (*index.shape, embeddings.shape[1])
    tokens = buffer.take(shape, embeddings.device, dtype)
    if isinstance(embeddings, Tensor) and embeddings.dtype == dtype:
        torch.index_select(embeddings, 0, flat, out=tokens.view(len(flat), -1))
    else:
        tokens.view(len(flat), -1).copy_(embeddings[flat])
    if outside.any():
        tokens[torch.from_numpy(outside).to(embeddings.device)] = 0
    return tokens
