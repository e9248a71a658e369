"""The words of one group in memory, with their tokens side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.lstsq import Solution, solve_problem
from fuse_index.adapter.fit.options import Ridge
from fuse_index.adapter.fit.rows import WordRows
from fuse_index.adapter.fit.stream import Chunk, LeastSquares, WordStream

MOST_WORDS = 1 << 17
"""Words of a group that are held in memory: the first ones, which are the most frequent."""
_CHUNK = 4096


@dataclass(frozen=True)
class DenseWords:
    """Words of a group and what their fit needs.

    Attributes:
        source: ``(n, p, d_src)`` float32, zero where a word has fewer tokens.
        target: ``(n, q, d_tgt)`` float32.
        workers: for least-squares problems.
    """

    source: Tensor
    target: Tensor
    workers: Workers

    @classmethod
    def read(cls, stream: WordStream, rows: WordRows, p: int) -> DenseWords:
        """Embed the words of one group of at most ``p`` source tokens."""
        sources, targets = [], []
        for source, target in stream.read(rows[:MOST_WORDS], torch.float32):
            padded = source.new_zeros(source.shape[1], p, source.shape[2])
            padded[:, : len(source)] = source.transpose(0, 1)
            sources.append(padded)
            targets.append(target.transpose(0, 1).contiguous().clone())
        return cls(torch.cat(sources), torch.cat(targets), stream.workers)

    def __len__(self) -> int:
        return len(self.source)

    def select(self, rows: Tensor | slice) -> DenseWords:
        """Return some of the words."""
        return DenseWords(self.source[rows], self.target[rows], self.workers)

    @property
    def x(self) -> Tensor:
        """``(n, S)``."""
        return self.source.flatten(1)

    @property
    def y(self) -> Tensor:
        """``(n, T)``."""
        return self.target.flatten(1)

    def intercept(self, offset: Tensor) -> Tensor:
        """Return the intercept ``(q, d_tgt)`` of a map, given ``(T,)``, its mean without one."""
        mean = self.y.double().mean(0) - offset.double()
        return mean.to(self.target.dtype).view(self.target.shape[1:])

    def solve(self, ridge: Ridge, k: int | None = None) -> Solution:
        """Solve the least-squares problem of the centred words.

        Args:
            ridge: as in :class:`~fuse_index.adapter.fit.options.FitOptions`.
            k: tube length of a t-product; ``None`` solves for a matrix ``(1, S, T)``.
        """
        if k is None:
            source, target = self.x[None], self.y[None]
        else:
            source, target = self.source.transpose(0, 1), self.target.transpose(0, 1)
        means = [side.double().mean(1, keepdim=True) for side in (source, target)]
        n = len(self)

        def read(dtype: torch.dtype) -> Iterator[Chunk]:
            for start in range(0, n, _CHUNK):
                part = slice(start, start + _CHUNK)
                x, y = (
                    side[:, part].to(dtype) - mean.to(dtype)
                    for side, mean in zip((source, target), means, strict=True)
                )
                yield x, y

        problem = LeastSquares(
            k or 1,
            n,
            max(n - 1, 1),
            (source.shape[2], target.shape[2]),
            source.device,
            self.workers,
            read,
        )
        return solve_problem(problem, ridge)
