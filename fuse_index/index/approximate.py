"""FAISS indexes: building, searching with selectors, bytes in and out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import BundleError, MissingDependencyError, OptionError
from fuse_index.index.options import Kind, Metric
from fuse_index.index.reducing import Reduction
from fuse_index.index.vectors import WordVectors

Progress = Callable[[int, int], None]

_TRAINING_PER_LIST = 40
_MOST_LISTS = 1024
_TRAINING_WORDS = 32768
_NEEDED = {
    Kind.FLAT: "IndexFlat",
    Kind.PQ: "IndexIVFPQFastScan",
    Kind.IVF_PQ: "IndexIVFPQFastScan",
    Kind.IVF_SQ: "IndexIVFScalarQuantizer",
    Kind.RABITQ: "IndexIVFRaBitQ",
    Kind.HNSW: "IndexHNSWSQ",
}


@dataclass(frozen=True)
class Effort:
    """How hard an approximate search tries.

    Attributes:
        probe: lists scanned, or the breadth of the search in a graph.
        candidates: words that are compared again exactly.
    """

    probe: int
    candidates: int

    def to_dict(self) -> dict[str, int]:
        """Return the fields as a JSON object."""
        return asdict(self)


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


def require_kind(kind: Kind) -> Any:
    """Import FAISS and check that it has a kind.

    Raises:
        MissingDependencyError: FAISS is absent or too old.
    """
    faiss = import_faiss()
    if not hasattr(faiss, _NEEDED[kind]):
        raise MissingDependencyError(
            f"kind {kind.value!r}: faiss {faiss.__version__} has no {_NEEDED[kind]}",
            remedy="upgrade faiss-cpu, or use another kind",
        )
    return faiss


@dataclass(frozen=True, eq=False)
class Approximate:
    """A FAISS index over word vectors.

    Attributes:
        index: the FAISS index; ids are rows of the word table.
        kind: what it is.
        metric: what it was made for.
        lift: largest squared norm where vectors have one more column, ``sqrt(lift - |x|^2)``,
            which makes the nearest word the one of the largest inner product; 0 where not.
        effort: used where a search does not say.
        reduction: maps words and queries to fewer dimensions, or ``None``.
    """

    index: Any
    kind: Kind
    metric: Metric
    lift: float
    effort: Effort
    reduction: Reduction | None = None

    @classmethod
    def build(
        cls,
        vectors: WordVectors,
        kind: Kind,
        metric: Metric,
        *,
        lifted: bool = False,
        reduction: Reduction | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Approximate:
        """Train an index and add all words.

        Args:
            vectors: of the words.
            kind: any but ``auto`` and ``tokens``.
            metric: what it is made for.
            lifted: search the largest inner product as the nearest neighbour of lifted vectors
                (Bachrach et al. 2014).
            reduction: for inner product and cosine: maps words and queries to fewer dimensions.
            seed: of training.
            progress: called with (words added, words).

        Raises:
            MissingDependencyError: FAISS is absent or lacks the kind.
        """
        faiss = require_kind(kind)
        lift = float(vectors.squares.max()) * (1 + 1e-6) if lifted else 0.0
        width = searched_width(vectors, lift, reduction)
        factory = _factory(kind, width, len(vectors), reduction is not None)
        nearest = metric is Metric.L2 or lifted
        index = faiss.index_factory(
            width, factory, faiss.METRIC_L2 if nearest else faiss.METRIC_INNER_PRODUCT
        )
        made = cls(index, kind, metric, lift, _first_effort(kind, index), reduction)
        if not index.is_trained:
            made._train(vectors, seed)
        made.add(vectors, 0, progress)
        return made

    @property
    def lists(self) -> int:
        """Inverted lists; 1 where there are none."""
        return int(getattr(_inner(self.index), "nlist", 1))

    def with_effort(self, effort: Effort) -> Approximate:
        """Return the same index with another effort."""
        return replace(self, effort=effort)

    def add(self, vectors: WordVectors, start: int, progress: Progress | None = None) -> None:
        """Add the words from ``start`` on; nothing is trained again."""
        size = vectors.chunk
        for first in range(start, len(vectors), size):
            ids = torch.arange(first, min(first + size, len(vectors)))
            self.index.add(self._words(vectors.rows(ids), vectors.squares[ids]))
            if progress is not None:
                progress(first + len(ids), len(vectors))

    def extended(self, vectors: WordVectors) -> Approximate:
        """Return a copy with the words that ``vectors`` has beyond this index's.

        A lifted index does not take a word longer than any it was built for.

        Raises:
            OptionError: such a word is added.
        """
        start = int(self.index.ntotal)
        if self.lift and float(vectors.squares[start:].max()) > self.lift:
            raise OptionError(
                "an added word's vector is longer than all that the index was built for",
                remedy="build the index again",
            )
        copy = replace(self, index=import_faiss().clone_index(self.index))
        copy.add(vectors, start)
        return copy

    def search(
        self, queries: Tensor, k: int, effort: Effort | None = None, allowed: Any = None
    ) -> Tensor:
        """Find candidates.

        Args:
            queries: ``(b, width)`` float32.
            k: least candidates.
            effort: see :class:`Effort`.
            allowed: a FAISS selector, or ``None`` for all words.

        Returns:
            ``(b, max(k, effort.candidates))`` int64, best first; -1 where no more were found.
        """
        effort = effort or self.effort
        count = min(max(k, effort.candidates), int(self.index.ntotal))
        parameters = self._parameters(
            max(effort.probe, k) if self.kind is Kind.HNSW else effort.probe, allowed
        )
        prepared = self._queries(queries)
        with _one_thread() if len(queries) == 1 else nullcontext():
            _, ids = self.index.search(prepared, count, params=parameters)
        return torch.from_numpy(ids)

    def scored(self, queries: Tensor, k: int, allowed: Any = None) -> tuple[Tensor, Tensor]:
        """Search a flat index: exact scores and ids, both ``(b, k)``."""
        found, ids = self.index.search(
            self._queries(queries), k, params=self._parameters(1, allowed)
        )
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
        count = max(_TRAINING_WORDS, _TRAINING_PER_LIST * self.lists)
        rng = np.random.default_rng(seed)
        ids = rng.permutation(len(vectors))[:count]
        chosen = torch.from_numpy(np.sort(ids))
        with _one_thread():
            self.index.train(self._words(vectors.rows(chosen), vectors.squares[chosen]))

    def _words(self, rows: Tensor, squares: Tensor) -> NDArray[np.float32]:
        if self.metric is Metric.COSINE:
            rows = rows * squares.clamp(min=1e-30).rsqrt()[:, None]
        if self.lift:
            rows = torch.cat([rows, (self.lift - squares).clamp(min=0).sqrt()[:, None]], 1)
        if self.reduction is not None:
            rows = rows @ self.reduction.words
        values: NDArray[np.float32] = np.ascontiguousarray(rows.numpy())
        return values

    def _queries(self, queries: Tensor) -> NDArray[np.float32]:
        if self.lift:
            queries = torch.cat([queries, queries.new_zeros(len(queries), 1)], 1)
        if self.reduction is not None:
            queries = queries @ self.reduction.queries
        values: NDArray[np.float32] = np.ascontiguousarray(queries.numpy())
        return values

    def _parameters(self, probe: int, allowed: Any) -> Any:
        faiss = import_faiss()
        given = {} if allowed is None else {"sel": allowed}
        if self.kind is Kind.FLAT:
            return faiss.SearchParameters(**given)
        if self.kind is Kind.HNSW:
            return faiss.SearchParametersHNSW(efSearch=probe, **given)
        if self.kind is Kind.RABITQ:
            inner = faiss.IVFRaBitQSearchParameters(nprobe=probe, **given)
            return faiss.SearchParametersPreTransform(index_params=inner)
        return faiss.IVFSearchParameters(nprobe=probe, **given)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread where there is too little work to share: single queries, small k-means.

    Threads that wait for one another made these ten times slower on a busy machine. The number of
    OpenMP threads belongs to the calling thread, so nobody else sees it.
    """
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def lists_for(words: int) -> int:
    """Inverted lists for so many words: about their square root, a power of two."""
    return min(_MOST_LISTS, max(1, 1 << round(math.log2(max(math.sqrt(words), 1)))))


def parse_index(data: NDArray[np.uint8], kind: Kind, where: str) -> Any:
    """Read an index from bytes whose checksum was verified.

    Raises:
        BundleError: FAISS does not take them.
        MissingDependencyError: FAISS is absent or lacks the kind.
    """
    faiss = require_kind(kind)
    try:
        return faiss.deserialize_index(data)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise BundleError(
            f"{where}: faiss {faiss.__version__} cannot read it ({str(error)[:200]})",
            remedy="build the index again",
        ) from None


def searched_width(vectors: WordVectors, lift: float, reduction: Reduction | None) -> int:
    """Columns of the vectors that FAISS sees."""
    if reduction is not None:
        return reduction.words.shape[1]
    return vectors.width + (1 if lift else 0)


def _factory(kind: Kind, width: int, words: int, reduced: bool) -> str:
    """What FAISS calls it; the few dimensions of a reduction get 4 bits each, others two share."""
    parts = width if reduced or width % 2 else width // 2
    lists = lists_for(words)
    return {
        Kind.FLAT: "Flat",
        Kind.PQ: f"IVF1,PQ{parts}x4fs",
        Kind.IVF_PQ: f"IVF{lists},PQ{parts}x4fs",
        Kind.IVF_SQ: f"IVF{lists},SQ8",
        Kind.RABITQ: f"RR{width},IVF{lists},RaBitQ",
        Kind.HNSW: "HNSW32,SQ8",
    }[kind]


def _inner(index: Any) -> Any:
    """The inverted file behind a rotation."""
    faiss = import_faiss()
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.downcast_index(index.index)
    return index


def _first_effort(kind: Kind, index: Any) -> Effort:
    if kind is Kind.FLAT:
        return Effort(1, 1)
    lists = int(getattr(_inner(index), "nlist", 1))
    return Effort(128 if kind is Kind.HNSW else max(1, lists // 4), 1000)
