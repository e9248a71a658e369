"""Exact search by token scores: a word's vector is a sum over its tokens, and so is its score."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from fuse_index.index.options import Metric
from fuse_index.index.top import best_of_chunks
from fuse_index.index.vectors import PackedSide, WordVectors, finish

_FEW_QUERIES = 6
_SCORES = 16 << 20
"""Scores that are held at a time."""


def search_tokens(
    vectors: WordVectors, queries: Tensor, k: int, metric: Metric, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the best words exactly.

    ``q . mean(E[tokens]) = mean((E q)[tokens])``: one product with the embeddings of the tokens in
    use, then a gather and a sum a word. The cost of a query is that of the token table, which is
    far smaller than the words' vectors. (Where only the vectors are kept, they are multiplied.) A
    model whose part of every query is zero costs nothing.

    Args:
        vectors: of ``n`` words.
        queries: ``(b, width)`` float32.
        k: at most the number of allowed words.
        metric: see :class:`Metric`.
        allowed: ``(n,)`` bool, or ``None`` for all words.

    Returns:
        Scores and ids, both ``(b, k)``, best first.
    """
    scores, ids = best_of_chunks(_scores(vectors, queries, metric, allowed), k)
    return by_nearness(vectors, queries, ids) if metric is Metric.L2 else (scores, ids)


def by_nearness(vectors: WordVectors, queries: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Score and order found words again, where ``2 q.x - |x|^2 - |q|^2`` has cancelled."""
    scores, order = vectors.nearness(queries, ids).sort(dim=1, descending=True)
    return scores, ids.gather(1, order)


def _scores(
    vectors: WordVectors, queries: Tensor, metric: Metric, allowed: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    few = len(queries) <= _FEW_QUERIES
    terms = list(_terms(vectors, queries, few)) if vectors.has_tables else []
    step = max(4096, _SCORES // len(queries))
    for start in range(0, len(vectors), step):
        words = slice(start, min(start + step, len(vectors)))
        inner = torch.zeros(0)
        for number, (packed, table, slots) in enumerate(terms):
            add = _add_few(packed, table, slots, words) if few else _add_many(packed, table, words)
            inner = add if number == 0 else inner.add_(add)
        if vectors.kept is not None and not vectors.has_tables:
            inner = queries @ vectors.kept[words].t()
        elif not terms:  # every query is zero
            inner = queries.new_zeros(len(queries), words.stop - words.start)
        scores = finish(inner, queries, metric, vectors, words)
        if allowed is not None:
            scores.masked_fill_(~allowed[words], -torch.inf)
        yield start, scores


def _terms(
    vectors: WordVectors, queries: Tensor, few: bool
) -> Iterator[tuple[PackedSide, Tensor, int]]:
    """The scores of every model's tokens: ``(slots, b, tokens)`` for few queries, else flat."""
    for packed in vectors.packed:
        used = queries[:, packed.part : packed.part + packed.slots * packed.width]
        if not bool(used.any()):
            continue
        parts = used.reshape(len(used), packed.slots, -1).transpose(0, 1)  # (slots, b, d)
        if few:
            yield packed, torch.matmul(parts, packed.rows.t()), packed.slots
        else:
            yield packed, torch.matmul(packed.rows, parts.transpose(1, 2)).flatten(0, 1), 0


def _add_few(packed: PackedSide, table: Tensor, slots: int, words: slice) -> Tensor:
    """``(b, words)`` from ``(slots, b, tokens)``: one gather a token of the longest word."""
    total = torch.zeros(0)
    for number, column in enumerate(packed.columns[:, words]):
        part = table[number if slots > 1 else 0].index_select(1, column)
        total = part if number == 0 else total.add_(part)
    return total if slots > 1 else total.mul_(packed.scale[words])


def _add_many(packed: PackedSide, table: Tensor, words: slice) -> Tensor:
    """``(b, words)`` from ``(slots * tokens, b)``: rows of b scores are gathered and summed."""
    ids = packed.columns[:, words]
    if packed.slots > 1:
        first = torch.arange(packed.slots, dtype=torch.int64)[:, None] * len(packed.rows)
        ids = ids.long() + first
    summed = functional.embedding_bag(ids.t().contiguous(), table, mode="sum")  # (words, b)
    return summed.mul_(packed.scale[words, None]).t()
