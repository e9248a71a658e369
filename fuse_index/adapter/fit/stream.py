"""Least-squares problems over words, as streams of chunks that can be read more than once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.rows import Ids, WordRows
from fuse_index.bundle.tensors import Vectors

Chunk = tuple[Tensor, Tensor]
Centre = tuple[Tensor, Tensor]
"""Mean source and target tokens of words, ``(p, source width)`` and ``(q, target width)``."""

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
        centre: what is subtracted from the words, if anything.
        problem: called with the first word and the one to stop before, the problem of these only.
        tokens: called with the same, their token ids as :meth:`WordRows.tokens` gives them.
    """

    words: int
    chunk: int
    shared: bool
    centre: Centre | None
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
        return self._mean(rows, 1)

    def centre(self, rows: WordRows) -> Centre:
        """Return the mean tokens of the words of one group; missing source tokens count as 0."""
        return self._mean(rows, 0), self._mean(rows, 1)

    def _mean(self, rows: WordRows, side: int) -> Tensor:
        blocks = []
        for start in range(0, len(rows), self._size * _MEAN_CHUNKS):
            block = rows[start : start + self._size * _MEAN_CHUNKS]
            sums = self.workers.map(partial(self._sum, side), self.parts(block))
            longest = max(map(len, sums))
            blocks.append(torch.stack([_longer(own, longest) for own in sums]).sum(0))
        longest = max(map(len, blocks))
        blocks = [_longer(own, longest) for own in blocks]
        return sum(blocks[1:], blocks[0]) / len(rows)

    def _sum(self, side: int, rows: WordRows) -> Tensor:
        return _embed(rows.tokens()[side], self._tables[side], torch.float64, Buffer()).sum(1)

    def problem(self, rows: WordRows, k: int, centre: Centre | None = None) -> LeastSquares:
        """The problem of one word group: words of at most ``k`` tokens on either side.

        Args:
            rows: the words.
            k: tube length.
            centre: subtracted from the words.
        """
        count = len(rows)

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            return centred(self.read(rows, dtype), centre)

        problem = partial(self.problem, k=k, centre=centre)
        shards = self._shards(rows, shared=False, centre=centre, problem=problem)
        samples = count if centre is None else max(count - 1, 1)
        return LeastSquares(k, count, samples, self.widths, self.device, self.workers, read, shards)

    def shared_problem(self, rows: WordRows, q: int, centre: Centre | None = None) -> LeastSquares:
        """The problem of words of one source and ``q`` target tokens.

        All faces of the source are equal, so it is one matrix problem with the target tokens side
        by side; its solution ``(1, source width, q * target width)`` holds the ``q`` faces.

        Args:
            rows: the words.
            q: their target tokens.
            centre: subtracted from the words.
        """

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            for source, target in centred(self.read(rows, dtype), centre):
                yield source, target.transpose(0, 1).flatten(1)[None]

        count, widths = len(rows), (self.widths[0], q * self.widths[1])
        problem = partial(self.shared_problem, q=q, centre=centre)
        shards = self._shards(rows, shared=True, centre=centre, problem=problem)
        samples = count if centre is None else max(count - 1, 1)
        return LeastSquares(1, count, samples, widths, self.device, self.workers, read, shards)

    def summed_problem(
        self, rows: WordRows, centre: tuple[Tensor, Tensor] | None = None
    ) -> LeastSquares:
        """The problem of the fallback: one matrix from the sum of a word's source tokens to each.

        ``sum_w sum_{t < q} ||u_w F - y_wt||^2`` differs by a constant from the problem with the
        rows ``sqrt(q) u_w`` and ``sum_t y_wt / sqrt(q)``.

        Args:
            rows: the words.
            centre: subtracted from the sums of source tokens, ``(source width,)``, and from each
                target token, ``(target width,)``.
        """

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            for source, target, ids in self._read(rows, dtype):
                scales = np.sqrt((ids >= 0).sum(0).astype(np.float64))
                scale = torch.from_numpy(scales).to(source)[:, None]
                summed, means = source.sum(0), target.sum(0) / scale
                if centre is not None:
                    summed = summed - centre[0].to(summed)
                    means = means - centre[1].to(means) * scale
                yield (summed * scale)[None], means[None]

        return LeastSquares(
            1, len(rows), rows.target_tokens, self.widths, self.device, self.workers, read
        )

    def _shards(
        self,
        rows: WordRows,
        *,
        shared: bool,
        centre: Centre | None,
        problem: Callable[[WordRows], LeastSquares],
    ) -> Shards:
        return Shards(
            max(1, SHARD_WORDS // self._size) * self._size,
            self._size,
            shared,
            centre,
            lambda start, stop: problem(rows[start:stop]),
            lambda start, stop: rows[start:stop].tokens(),
        )


def centred(chunks: Iterator[Chunk], centre: Centre | None) -> Iterator[Chunk]:
    """Subtract mean tokens, in place; missing source tokens are zeros before.

    Args:
        chunks: of words of one group.
        centre: ``None`` subtracts nothing.
    """
    if centre is None:
        yield from chunks
        return
    for source, target in chunks:
        means = [own[:, None].to(source) for own in centre]
        yield _longer(source, len(means[0])).sub_(means[0]), target.sub_(means[1])


def _longer(tokens: Tensor, count: int) -> Tensor:
    """Append zeros along the first dimension."""
    missing = count - len(tokens)
    zeros = tokens.new_zeros(max(missing, 0), *tokens.shape[1:])
    return torch.cat([tokens, zeros]) if missing else tokens


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
