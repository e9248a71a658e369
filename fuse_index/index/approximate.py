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
from fuse_index.index.options import Kind, Metric
from fuse_index.index.projection import Projection
from fuse_index.index.vectors import WordVectors

_TRAINING_WORDS = 32768
FIRST_CANDIDATES = 1000
"""Words that are scored again where nothing was measured."""


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


@dataclass(frozen=True, eq=False)
class Approximate:
    """A FAISS index over word vectors: all of them, or product codes.

    Attributes:
        index: the FAISS index; ids are rows of the word table.
        kind: ``flat`` or ``pq``.
        metric: what it was made for.
        candidates: words that are scored again exactly where a search does not say.
        projection: maps words and queries to fewer dimensions, or ``None``.
    """

    index: Any
    kind: Kind
    metric: Metric
    candidates: int
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
        made = cls(index, kind, metric, FIRST_CANDIDATES, projection)
        if not index.is_trained:
            made._train(vectors, seed)
        made.add(vectors, 0)
        return made

    def with_candidates(self, candidates: int) -> Approximate:
        """Return the same index with another number of candidates."""
        return replace(self, candidates=candidates)

    def add(self, vectors: WordVectors, start: int) -> None:
        """Add the words from ``start`` on; nothing is trained again."""
        size = vectors.chunk
        for first in range(start, len(vectors), size):
            ids = torch.arange(first, min(first + size, len(vectors)))
            self.index.add(self._words(vectors.rows(ids), vectors.squares[ids]))

    def extended(self, vectors: WordVectors) -> Approximate:
        """Return a copy with the words that ``vectors`` has beyond this index's."""
        copy = replace(self, index=import_faiss().clone_index(self.index))
        copy.add(vectors, int(self.index.ntotal))
        return copy

    def search(
        self, queries: Tensor, k: int, candidates: int | None = None, allowed: Any = None
    ) -> Tensor:
        """Find candidates.

        Args:
            queries: ``(b, width)`` float32.
            k: least candidates.
            candidates: how many; the index's own number if ``None``.
            allowed: a FAISS selector, or ``None`` for all words.

        Returns:
            ``(b, max(k, candidates))`` int64, best first; -1 where no more were found.
        """
        count = min(max(k, candidates or self.candidates), int(self.index.ntotal))
        prepared = self._queries(queries)
        with _one_thread() if len(queries) == 1 else nullcontext():
            _, ids = self.index.search(prepared, count, params=self._parameters(allowed))
        return torch.from_numpy(ids)

    def scored(self, queries: Tensor, k: int, allowed: Any = None) -> tuple[Tensor, Tensor]:
        """Search a flat index: exact scores and ids, both ``(b, k)``."""
        found, ids = self.index.search(self._queries(queries), k, params=self._parameters(allowed))
        scores = torch.from_numpy(found)
        if self.metric is Metric.L2:
            scores = -scores
        elif self.metric is Metric.COSINE:
            scores = scores / queries.norm(dim=1, keepdim=True).clamp(min=1e-30)
        return scores, torch.from_numpy(ids)

    def serialize(self) -> NDArray[np.uint8]:
        """Return the bytes of the index, as FAISS writes them."""
        data: NDArray[np.uint8] = import_faiss().serialize_index(self.index)
        return data

    def _train(self, vectors: WordVectors, seed: int) -> None:
        rng = np.random.default_rng(seed)
        ids = rng.permutation(len(vectors))[:_TRAINING_WORDS]
        chosen = torch.from_numpy(np.sort(ids))
        with _one_thread():
            self.index.train(self._words(vectors.rows(chosen), vectors.squares[chosen]))

    def _words(self, rows: Tensor, squares: Tensor) -> NDArray[np.float32]:
        if self.metric is Metric.COSINE:
            rows = rows * squares.clamp(min=1e-30).rsqrt()[:, None]
        if self.projection is not None:
            rows = rows @ self.projection.words
        values: NDArray[np.float32] = np.ascontiguousarray(rows.numpy())
        return values

    def _queries(self, queries: Tensor) -> NDArray[np.float32]:
        if self.projection is not None:
            queries = queries @ self.projection.queries
        values: NDArray[np.float32] = np.ascontiguousarray(queries.numpy())
        return values

    def _parameters(self, allowed: Any) -> Any:
        faiss = import_faiss()
        given = {} if allowed is None else {"sel": allowed}
        if self.kind is Kind.FLAT:
            return faiss.SearchParameters(**given)
        return faiss.IVFSearchParameters(nprobe=1, **given)


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


def parse_index(data: NDArray[np.uint8], where: str) -> Any:
    """Read an index from bytes whose checksum was verified.

    Raises:
        BundleError: FAISS does not take them.
        MissingDependencyError: FAISS is absent.
    """
    faiss = import_faiss()
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


def _factory(kind: Kind, width: int, projected: bool) -> str:
    """What FAISS calls it; projected dimensions get 4 bits each, of others two share 4.

    All codes are in one list: FAISS has masks for the fast scan of lists only.
    """
    if kind is Kind.FLAT:
        return "Flat"
    parts = width if projected or width % 2 else width // 2
    return f"IVF1,PQ{parts}x4fs"
