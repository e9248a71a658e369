"""Search of an index: chooses exact or approximate search, then scores exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse_index.index.approximate import Approximate
from fuse_index.index.masks import Mask
from fuse_index.index.options import Kind, Metric
from fuse_index.index.tokens import by_nearness, search_tokens
from fuse_index.index.top import best_of
from fuse_index.index.vectors import WordVectors, finish

FEW_WORDS = 4096
"""Where a mask allows no more words than this, their vectors are made and compared."""

Found = tuple[Tensor, Tensor]
"""Scores and ids, both ``(b, k)``, best first."""


def search_words(
    vectors: WordVectors,
    engine: Approximate | None,
    queries: Tensor,
    k: int,
    *,
    metric: Metric,
    mask: Mask | None = None,
) -> Found:
    """Find the best words.

    Args:
        vectors: of ``n`` words.
        engine: a FAISS index over them, or ``None`` for the exact search by tokens. It is not used
            for a metric that it was not made for.
        queries: ``(b, width)`` float32 on the CPU.
        k: at most the number of allowed words.
        metric: see :class:`Metric`.
        mask: words that may be found.
    """
    if mask is not None and mask.count <= FEW_WORDS:
        return _among(vectors, queries, k, metric, mask)
    if engine is not None and engine.metric is metric:
        selector = None if mask is None else mask.selector
        if engine.kind is Kind.FLAT:
            return engine.scored(queries, k, selector)
        scores, ids = approximate(vectors, engine, queries, k, selector=selector)
        if bool(torch.isfinite(scores[:, -1]).all()):
            return scores, ids
    allowed = None if mask is None else mask.on(torch.device("cpu"))
    return search_tokens(vectors, queries, k, metric, allowed)


def approximate(
    vectors: WordVectors,
    engine: Approximate,
    queries: Tensor,
    k: int,
    *,
    candidates: int | None = None,
    selector: object = None,
) -> Found:
    """Find candidates and compare them again exactly; ``-inf`` where too few were found."""
    found = engine.search(queries, k, candidates, selector)
    known = found.clamp(min=0)
    inner = vectors.inner(queries, known)
    scores = finish(inner, queries, engine.metric, vectors, known)
    best, places = scores.masked_fill_(found < 0, -torch.inf).topk(k, dim=1)
    ids = found.gather(1, places)
    if engine.metric is Metric.L2 and bool((ids >= 0).all()):
        return by_nearness(vectors, queries, ids)
    return best, ids


def _among(vectors: WordVectors, queries: Tensor, k: int, metric: Metric, mask: Mask) -> Found:
    """Compare all allowed words, which are few."""
    inner = queries @ vectors.rows(mask.ids).t()
    scores, places = best_of(finish(inner, queries, metric, vectors, mask.ids), k)
    ids = mask.ids[places]
    return by_nearness(vectors, queries, ids) if metric is Metric.L2 else (scores, ids)
