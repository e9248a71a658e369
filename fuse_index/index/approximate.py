"""FAISS indexes: building, searching with selectors, bytes in and out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import BundleError, MissingDependencyError
from fuse_index.index.exact import Found, best_of, by_nearness, finish, search_tokens
from fuse_index.index.faissfile import CodesLayout, parts_of
from fuse_index.index.masks import Mask
from fuse_index.index.options import Kind, Metric
from fuse_index.index.projection import Projection
from fuse_index.index.vectors import WordVectors

_TRAINING_WORDS = 32768
FIRST_CANDIDATES = 1000
"""Words that are scored again where nothing was measured."""
FEW_WORDS = 4096
"""Where a mask allows no more words than this, their vectors are made and compared."""


@dataclass(frozen=True, eq=False)
class Approximate:
    """A FAISS index over word vectors: all of them, or product codes.

    Attributes:
        index: the FAISS index; ids are rows of the word table.
        kind: ``flat`` or ``pq``.
        metric: what it was made for.
        candidates: words that are scored again exactly, with product codes.
        projection: maps words and queries to fewer dimensions, or ``None``.
    """

    index: Any
    kind: Kind
    metric: Metric
    candidates: int = FIRST_CANDIDATES
    projection: Projection | None = None

    @classmethod
    def build(
        cls,
        vectors: WordVectors,
        kind: Kind,
        metric: Metric,
        *,
        projection: Projection | None = None,
        seed: int = 0,
    ) -> Approximate:
        """Train an index and add all words.

        Args:
            vectors: of the words.
            kind: ``flat`` or ``pq``.
            metric: what it is made for.
            projection: for inner product and cosine: maps words and queries to fewer dimensions.
            seed: of training.

        Raises:
            MissingDependencyError: FAISS is absent.
        """
        faiss = import_faiss()
        width = searched_width(vectors, projection)
        index = faiss.index_factory(
            width,
            _factory(kind, width, projection is not None),
            faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT,
        )
        made = cls(index, kind, metric, projection=projection)
        if not index.is_trained:
            ids = np.random.default_rng(seed).permutation(len(vectors))[:_TRAINING_WORDS]
            with _one_thread():
                index.train(made._words(vectors, torch.from_numpy(np.sort(ids))))
        made._add(vectors)
        return made

    def extended(self, vectors: WordVectors) -> Approximate:
        """Return a copy with the words that ``vectors`` has beyond this index's."""
        copy = replace(self, index=import_faiss().clone_index(self.index))
        copy._add(vectors)
        return copy

    def find(self, queries: Tensor, count: int, allowed: Any = None) -> Found:
        """Search with FAISS: its scores and ids; ids are -1 where no more were found.

        Args:
            queries: ``(b, width)`` float32.
            count: words a query.
            allowed: a FAISS selector, or ``None`` for all words.
        """
        faiss = import_faiss()
        reduced = queries if self.projection is None else queries @ self.projection.queries
        given = {} if allowed is None else {"sel": allowed}
        if self.kind is Kind.FLAT:
            parameters = faiss.SearchParameters(**given)
        else:
            parameters = faiss.IVFSearchParameters(nprobe=1, **given)
        single = len(queries) == 1 and self.kind is not Kind.FLAT
        with _one_thread() if single else nullcontext():
            found = self.index.search(
                np.ascontiguousarray(reduced.numpy()), count, params=parameters
            )
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    def search(self, vectors: WordVectors, queries: Tensor, k: int, allowed: Any = None) -> Found:
        """Find the best words with exact scores; ``-inf`` where too few were found."""
        if self.kind is Kind.FLAT:
            scores, ids = self.find(queries, k, allowed)
            if self.metric is Metric.L2:
                scores = -scores
            elif self.metric is Metric.COSINE:
                scores = scores / queries.norm(dim=1, keepdim=True).clamp(min=1e-30)
            return scores, ids
        count = min(max(k, self.candidates), int(self.index.ntotal))
        found = self.find(queries, count, allowed)[1]
        known = found.clamp(min=0)
        scores = finish(vectors.inner(queries, known), queries, self.metric, vectors, known)
        best, places = scores.masked_fill_(found < 0, -torch.inf).topk(k, dim=1)
        ids = found.gather(1, places)
        if self.metric is Metric.L2 and bool((ids >= 0).all()):
            return by_nearness(vectors, queries, ids)
        return best, ids

    def serialize(self) -> NDArray[np.uint8]:
        """Return the bytes of the index, as FAISS writes them."""
        data: NDArray[np.uint8] = import_faiss().serialize_index(self.index)
        return data

    def _add(self, vectors: WordVectors) -> None:
        """Add the words that are not in it yet; nothing is trained again."""
        for first in range(int(self.index.ntotal), len(vectors), vectors.chunk):
            ids = torch.arange(first, min(first + vectors.chunk, len(vectors)))
            self.index.add(self._words(vectors, ids))

    def _words(self, vectors: WordVectors, ids: Tensor) -> NDArray[np.float32]:
        rows = vectors.rows(ids)
        if self.metric is Metric.COSINE:
            rows = rows * vectors.squares[ids].clamp(min=1e-30).rsqrt()[:, None]
        if self.projection is not None:
            rows = rows @ self.projection.words
        values: NDArray[np.float32] = np.ascontiguousarray(rows.numpy())
        return values


def search_words(
    vectors: WordVectors,
    engine: Approximate | None,
    queries: Tensor,
    k: int,
    *,
    metric: Metric,
    mask: Mask | None = None,
) -> Found:
    """Find the best words: exactly, or with an index whose finds are scored exactly.

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
        inner = queries @ vectors.rows(mask.ids).t()
        scores, places = best_of(finish(inner, queries, metric, vectors, mask.ids), k)
        ids = mask.ids[places]
        return by_nearness(vectors, queries, ids) if metric is Metric.L2 else (scores, ids)
    if engine is not None and engine.metric is metric:
        allowed = None if mask is None else import_faiss().IDSelectorBitmap(mask.bits)
        scores, ids = engine.search(vectors, queries, k, allowed)
        if engine.kind is Kind.FLAT or bool(torch.isfinite(scores[:, -1]).all()):
            return scores, ids
    flags = None if mask is None else mask.on(torch.device("cpu"))
    return search_tokens(vectors, queries, k, metric, flags)


def import_faiss() -> Any:
    """Import FAISS.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import faiss  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"faiss cannot be imported ({error})",
            remedy="pip install faiss-cpu, or use kind='tokens', which does without",
        ) from error
    return faiss


def parse_index(data: NDArray[np.uint8], layout: CodesLayout, where: str) -> Any:
    """Read an index of product codes from bytes whose checksum was verified.

    Args:
        data: the file.
        layout: that it must have before FAISS sees it.
        where: the file, for messages.

    Raises:
        BundleError: it is another index, or damaged.
        MissingDependencyError: FAISS is absent.
    """
    faiss = import_faiss()
    layout.require(data, where)
    try:
        return faiss.deserialize_index(data)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise BundleError(
            f"{where}: faiss {faiss.__version__} cannot read it ({str(error)[:200]})",
            remedy="build the index again",
        ) from None


def searched_width(vectors: WordVectors, projection: Projection | None) -> int:
    """Columns of the vectors that FAISS sees."""
    return vectors.width if projection is None else projection.words.shape[1]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread where there is too little work to share: single queries, small k-means.

    Threads that wait for one another made these ten times slower on a busy machine. The number of
    OpenMP threads belongs to the calling thread, so other threads keep theirs.
    """
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _factory(kind: Kind, width: int, projected: bool) -> str:
    """What FAISS calls it; projected dimensions get 4 bits each, of others two share 4.

    All codes are in one list: FAISS has masks for the fast scan of lists only.
    """
    if kind is Kind.FLAT:
        return "Flat"
    return f"IVF1,PQ{parts_of(width, projected)}x4fs"
