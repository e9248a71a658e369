"""Exact search by one matrix product and a top-k, for GPUs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.index.options import Metric
from fuse_index.index.top import best_of_chunks
from fuse_index.index.vectors import WordVectors

_TINY = 1e-30
_SCORE_BYTES = 1 << 30
"""Memory of the scores that are held at a time."""
_WIDENED_WORDS = 1 << 15
"""Words that are widened to float32 at a time where a product of half precision cannot be had."""


class DenseSearch:
    """All word vectors on one device.

    In bfloat16 the vectors are rounded once; products are summed in float32, and so the search is
    exact for the rounded vectors.

    Args:
        vectors: of ``n`` words.
        device: where they go.
        dtype: float32, bfloat16 or float16.
    """

    def __init__(
        self, vectors: WordVectors, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise OptionError(f"dtype {dtype}", expected="float32, bfloat16 or float16")
        n, width = len(vectors), vectors.width
        self.matrix = torch.empty(n, width, dtype=dtype, device=device)
        for start, rows in vectors.chunks():
            self.matrix[start : start + len(rows)] = rows.to(device=device, dtype=dtype)
        self._set_norms()

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> DenseSearch:
        """Search rows that are already where they should be: ``(n, width)``."""
        made = cls.__new__(cls)
        made.matrix = matrix
        made._set_norms()
        return made

    def _set_norms(self) -> None:
        parts = [rows.float().square().sum(1) for rows in torch.split(self.matrix, 1 << 16)]
        self.squares = torch.cat(parts)
        self.inverse_norms = self.squares.clamp(min=_TINY).rsqrt() * (self.squares > 0)

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.matrix.device

    @property
    def bytes(self) -> int:
        """Bytes of the vectors and their norms."""
        return self.matrix.numel() * self.matrix.element_size() + 8 * len(self.matrix)

    def search(
        self, queries: Tensor, k: int, metric: Metric, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find the best words.

        Args:
            queries: ``(b, width)``, on the vectors' device.
            k: at most the number of allowed words.
            metric: see :class:`Metric`.
            allowed: ``(n,)`` bool on the same device, or ``None``.

        Returns:
            Scores float32 and ids int64, both ``(b, k)``, best first.
        """
        return best_of_chunks(self._scores(queries, metric, allowed), k)

    def _scores(
        self, queries: Tensor, metric: Metric, allowed: Tensor | None
    ) -> Iterator[tuple[int, Tensor]]:
        queries = queries.float()
        rounded = queries.to(self.matrix.dtype)
        step = max(4096, _SCORE_BYTES // (4 * len(queries)))
        if self.matrix.dtype is not torch.float32 and not _mixed_products(self.matrix):
            step = min(step, _WIDENED_WORDS)
        for start in range(0, len(self.matrix), step):
            words = slice(start, min(start + step, len(self.matrix)))
            scores = _product(rounded, self.matrix[words])
            if metric is Metric.L2:
                scores.mul_(2.0).sub_(self.squares[words])
                scores.sub_(rounded.float().square().sum(1, keepdim=True))
            elif metric is Metric.COSINE:
                scores.mul_(self.inverse_norms[words])
                scores.div_(rounded.float().norm(dim=1, keepdim=True).clamp(min=_TINY))
            if allowed is not None:
                scores.masked_fill_(~allowed[words], -torch.inf)
            yield start, scores


def _product(queries: Tensor, words: Tensor) -> Tensor:
    """``(b, n)`` float32, whatever the dtype of the factors."""
    if words.dtype is torch.float32:
        return queries @ words.t()
    if _mixed_products(words):
        return torch.mm(queries, words.t(), out_dtype=torch.float32)
    return queries.float() @ words.t().float()


def _mixed_products(words: Tensor) -> bool:
    """Whether torch multiplies these half-precision words into float32 (on CUDA since 2.8)."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return words.is_cuda and version >= (2, 8)
