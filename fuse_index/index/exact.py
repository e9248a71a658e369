"""Exact search: by the scores of tokens on a CPU, by one matrix product on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fuse_index.errors import ShapeError
from fuse_index.index.options import Metric
from fuse_index.index.vectors import PackedSide, WordVectors

Array = Tensor | NDArray[np.floating[Any]]

Found = tuple[Tensor, Tensor]
"""Scores and ids, both ``(b, k)``, best first."""

TILE = 256
_LEAST_TILES_PER_BEST = 4
_TINY = 1e-30
_FEW_QUERIES = 6
_SCORES = 16 << 20
"""Scores that are held at a time on a CPU."""
_SCORE_BYTES = 1 << 30
"""Memory of the scores that are held at a time on a GPU."""
_WIDENED_WORDS = 1 << 15
"""Words that are widened to float32 at a time where a product of half precision cannot be had."""


class DenseSearch:
    """All word vectors on one device.

    In bfloat16 the vectors are rounded once; products are summed in float32, and so the search is
    exact for the rounded vectors.

    Args:
        matrix: ``(n, width)`` float32, bfloat16 or float16.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        parts = [rows.float().square().sum(1) for rows in torch.split(matrix, 1 << 16)]
        self.squares = torch.cat(parts)
        self.inverse_norms = self.squares.clamp(min=_TINY).rsqrt() * (self.squares > 0)

    def search(
        self, queries: Tensor, k: int, metric: Metric, allowed: Tensor | None = None
    ) -> Found:
        """Find the best of ``n`` words.

        Args:
            queries: ``(b, width)``, on the vectors' device.
            k: at most the number of allowed words.
            metric: see :class:`Metric`.
            allowed: ``(n,)`` bool on the same device, or ``None``.
        """
        rounded = queries.float().to(self.matrix.dtype)
        step = max(4096, _SCORE_BYTES // (4 * len(queries)))
        if self.matrix.dtype is not torch.float32 and not _mixed_products(self.matrix):
            step = min(step, _WIDENED_WORDS)
        chunks = (
            (start, _product(rounded, words))
            for start, words in zip(
                range(0, len(self.matrix), step), torch.split(self.matrix, step), strict=True
            )
        )
        return best_of_chunks(scored(chunks, rounded.float(), metric, self, allowed), k)


def search_tokens(
    vectors: WordVectors, queries: Tensor, k: int, metric: Metric, allowed: Tensor | None = None
) -> Found:
    """Find the best of ``n`` words by the scores of their tokens.

    ``q . mean(E[tokens]) = mean((E q)[tokens])``: one product with the embeddings of the tokens in
    use, then a gather and a sum a word. The cost of a query is that of the token table, which is
    far smaller than the words' vectors. (Where only the vectors are kept, they are multiplied.) A
    model whose part of every query is zero costs nothing.

    Args:
        vectors: of the words.
        queries: ``(b, width)`` float32.
        k: at most the number of allowed words.
        metric: see :class:`Metric`.
        allowed: ``(n,)`` bool, or ``None`` for all words.
    """
    chunks = _token_sums(vectors, queries)
    scores, ids = best_of_chunks(scored(chunks, queries, metric, vectors, allowed), k)
    return by_nearness(vectors, queries, ids) if metric is Metric.L2 else (scores, ids)


def by_nearness(vectors: WordVectors, queries: Tensor, ids: Tensor) -> Found:
    """Score and order found words again, where ``2 q.x - |x|^2 - |q|^2`` has cancelled."""
    scores, order = vectors.nearness(queries, ids).sort(dim=1, descending=True)
    return scores, ids.gather(1, order)


def finish(
    inner: Tensor,
    queries: Tensor,
    metric: Metric,
    vectors: WordVectors | DenseSearch,
    words: slice | Tensor,
) -> Tensor:
    """Turn inner products ``(b, words)`` into scores of a metric, in place.

    Args:
        inner: of all queries with some words.
        queries: ``(b, width)``.
        metric: see :class:`Metric`.
        vectors: of all words.
        words: which words the columns of ``inner`` are; a slice, ``(words,)`` or ``(b, words)``.
    """
    if metric is Metric.L2:
        inner.mul_(2.0).sub_(vectors.squares[words])
        return inner.sub_(queries.square().sum(1, keepdim=True))
    if metric is Metric.COSINE:
        inner.mul_(vectors.inverse_norms[words])
        return inner.div_(queries.norm(dim=1, keepdim=True).clamp(min=_TINY))
    return inner


def scored(
    chunks: Iterable[tuple[int, Tensor]],
    queries: Tensor,
    metric: Metric,
    vectors: WordVectors | DenseSearch,
    allowed: Tensor | None,
) -> Iterator[tuple[int, Tensor]]:
    """Turn chunks of inner products into scores; ``-inf`` at words that may not be found."""
    for start, inner in chunks:
        words = slice(start, start + inner.shape[1])
        scores = finish(inner, queries, metric, vectors, words)
        if allowed is not None:
            scores.masked_fill_(~allowed[words], -torch.inf)
        yield start, scores


def best_of(scores: Tensor, k: int) -> Found:
    """Find the k largest of each row, in falling order.

    Every one of the k largest lies in one of the k tiles with the largest maxima, so one pass over
    the scores and a search among ``k * TILE`` of them suffice. This is exact.

    Args:
        scores: ``(b, n)``, ``-inf`` at what must not be found.
        k: at most ``n``.
    """
    b, n = scores.shape
    tiles = n // TILE
    if tiles < _LEAST_TILES_PER_BEST * k:
        values, positions = scores.topk(k, dim=1)
        return values, positions
    body = scores[:, : tiles * TILE].view(b, tiles, TILE)
    tile = body.amax(2).topk(k, dim=1, sorted=False).indices  # (b, k)
    inside = body.gather(1, tile[..., None].expand(b, k, TILE)).flatten(1)  # (b, k * TILE)
    where = (tile[..., None] * TILE + torch.arange(TILE, device=tile.device)).flatten(1)
    if n > tiles * TILE:
        inside = torch.cat([inside, scores[:, tiles * TILE :]], 1)
        rest = torch.arange(tiles * TILE, n, device=tile.device)
        where = torch.cat([where, rest.expand(b, -1)], 1)
    values, positions = inside.topk(k, dim=1)
    return values, where.gather(1, positions)


def best_of_chunks(chunks: Iterable[tuple[int, Tensor]], k: int) -> Found:
    """Find the k largest of rows that come in chunks: first column and ``(b, columns)`` of each."""

    def merge(best: Found, more: Found) -> Found:
        values, columns = (torch.cat(pair, 1) for pair in zip(best, more, strict=True))
        values, order = values.topk(min(k, values.shape[1]), dim=1)
        return values, columns.gather(1, order)

    found = (
        (values, places + start)
        for start, scores in chunks
        for values, places in [best_of(scores, min(k, scores.shape[1]))]
    )
    return reduce(merge, found)


def check_queries(queries: Array, width: int, what: str = "queries") -> Tensor:
    """Return queries as finite float32 ``(b, width)``, where they are.

    Raises:
        ShapeError: another width, or a value that is not finite.
    """
    values = torch.as_tensor(queries).detach()
    if values.ndim != 2 or values.shape[1] != width:
        raise ShapeError(
            f"{what} of shape {tuple(values.shape)}",
            expected=f"(queries, {width}), the width of the index",
        )
    values = values.float()
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).any(1).nonzero()[0, 0])
        raise ShapeError(f"{what}: row {bad} holds NaN or infinity", expected="finite numbers")
    return values


def _token_sums(vectors: WordVectors, queries: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Inner products of queries with chunks of words."""
    few = len(queries) <= _FEW_QUERIES
    add = _add_few if few else _add_many
    terms = list(_terms(vectors, queries, few)) if vectors.has_tables else []
    step = max(4096, _SCORES // len(queries))
    for start in range(0, len(vectors), step):
        words = slice(start, min(start + step, len(vectors)))
        if vectors.kept is not None and not vectors.has_tables:
            yield start, queries @ vectors.kept[words].t()
        elif terms:
            yield start, reduce(Tensor.add_, (add(*term, words) for term in terms))
        else:  # every query is zero
            yield start, queries.new_zeros(len(queries), words.stop - words.start)


def _terms(vectors: WordVectors, queries: Tensor, few: bool) -> Iterator[tuple[PackedSide, Tensor]]:
    """The scores of every model's tokens: ``(slots, b, tokens)`` for few queries, else flat."""
    for packed in vectors.packed:
        used = queries[:, packed.part]
        if not bool(used.any()):
            continue
        parts = used.reshape(len(used), packed.slots, -1).transpose(0, 1)  # (slots, b, d)
        if few:
            yield packed, torch.matmul(parts, packed.rows.t())
        else:
            yield packed, torch.matmul(packed.rows, parts.transpose(1, 2)).flatten(0, 1)


def _add_few(packed: PackedSide, table: Tensor, words: slice) -> Tensor:
    """``(b, words)`` from ``(slots, b, tokens)``: one gather a token of the longest word."""
    padded = packed.slots > 1
    gathered = (
        table[number if padded else 0].index_select(1, column)
        for number, column in enumerate(packed.columns[:, words])
    )
    total = reduce(Tensor.add_, gathered)
    return total if padded else total.mul_(packed.scale[words])


def _add_many(packed: PackedSide, table: Tensor, words: slice) -> Tensor:
    """``(b, words)`` from ``(slots * tokens, b)``: rows of b scores are gathered and summed."""
    ids = packed.columns[:, words]
    if packed.slots > 1:
        first = torch.arange(packed.slots, dtype=torch.int64)[:, None] * len(packed.rows)
        ids = ids.long() + first
    summed = functional.embedding_bag(ids.t().contiguous(), table, mode="sum")  # (words, b)
    return summed.mul_(packed.scale[words, None]).t()


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
