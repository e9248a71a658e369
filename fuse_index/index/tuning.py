"""Chooses a kind and its number of candidates by measurement, on queries like those to come."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuse_index.common.progress import Tick
from fuse_index.errors import MissingDependencyError, OptionError
from fuse_index.index.approximate import Approximate
from fuse_index.index.options import IndexOptions, Kind, Metric
from fuse_index.index.projection import Projection
from fuse_index.index.searching import approximate, search_words
from fuse_index.index.tokens import search_tokens
from fuse_index.index.vectors import WordVectors

logger = logging.getLogger(__name__)

Variant = tuple[Kind, int]
"""A kind to try, and the dimensions that words and queries are projected to (0: none)."""

Measured = tuple[float, tuple[float, float], Approximate]
"""Recall, seconds (median and lower quartile), and the index with its number of candidates."""

LEAST_WORDS = 1024
"""Fewer words are not worth an approximation, nor enough to train one."""
_WORTH_PROJECTING = 1 << 14
_PROJECTED = (128, 256)
_SAMPLE = 20_000
_MARGINS = (0.015, 0.025, 0.035)
_SAFETY = 0.005
"""Margin of a measured recall: other queries give a little less or more."""
_MOST_CANDIDATES = 80
_TIMED = 31
_RANDOM_QUERIES = 128


@dataclass(frozen=True, eq=False)
class Trial:
    """The measurements of one kind.

    Attributes:
        kind: which one.
        engine: the FAISS index; ``None`` for the search by tokens.
        recall: share of the truly best words found, on queries held out; 1 for exact kinds.
        seconds: median time of a single query.
        quick: lower quartile of that time, by which kinds are compared.
        bytes: memory of the index and of what it scores again.
        reduced_to: dimensions that words and queries are projected to, if they are.
        candidates: words that are scored again, with product quantization.
    """

    kind: Kind
    engine: Approximate | None
    recall: float
    seconds: float
    quick: float
    bytes: int
    reduced_to: int | None = None
    candidates: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON object."""
        return {
            "kind": self.kind.value,
            "recall": round(self.recall, 4),
            "seconds": round(self.seconds, 6),
            "bytes": self.bytes,
            "candidates": self.candidates,
            "reduced_to": self.reduced_to,
        }


def variants(
    words: int, width: int, options: IndexOptions, measured: bool = True
) -> tuple[Variant, ...]:
    """List what is tried.

    Args:
        words: how many there are.
        width: of their vectors.
        options: see :class:`IndexOptions`.
        measured: whether there are sample queries to fit a projection to.

    Raises:
        OptionError: product quantization for too few words.
    """
    kind = options.kind
    if kind.exact:
        return ((kind, 0),)
    if kind is Kind.PQ and words < LEAST_WORDS:
        raise OptionError(
            f"kind {kind.value!r} for {words} words",
            expected=f"at least {LEAST_WORDS} words",
            remedy="use 'flat', 'tokens' or 'auto'",
        )
    found = [(Kind.FLAT, 0), (Kind.TOKENS, 0)] if kind is Kind.AUTO else []
    if words >= LEAST_WORDS:
        found.append((Kind.PQ, 0))
    worth = kind is Kind.PQ or words >= _WORTH_PROJECTING
    if worth and measured and options.metric is not Metric.L2:
        found += [(Kind.PQ, size) for size in _PROJECTED if size < width]
    return tuple(found)


def tune(
    vectors: WordVectors,
    options: IndexOptions,
    queries: Tensor | None,
    progress: Tick | None = None,
) -> tuple[Trial, tuple[Trial, ...]]:
    """Build the kinds to try, measure them, and choose one.

    Args:
        vectors: of ``n`` words.
        options: see :class:`IndexOptions`.
        queries: ``(m, width)``, of the sort that will be asked: half of them set the number
            of candidates, the others measure it. ``None`` draws random directions.
        progress: called with (steps done, steps).

    Returns:
        The chosen trial and all of them.

    Raises:
        OptionError: an approximate kind for too few words, or none reaches the recall within the
            memory.
        MissingDependencyError: FAISS is absent or lacks the kind that was asked for.
    """
    kinds = variants(len(vectors), vectors.width, options, queries is not None)
    bench = _Bench.of(vectors, options, queries)
    trials: list[Trial] = []
    for done, variant in enumerate(kinds):
        if progress is not None:
            progress(done, len(kinds))
        try:
            trials.append(bench.trial(variant))
        except MissingDependencyError as error:
            if options.kind is not Kind.AUTO:
                raise
            logger.warning("%s", error)
        if trials:
            logger.info("%s", trials[-1].to_dict())
    if progress is not None:
        progress(len(kinds), len(kinds))
    chosen = _choose(trials, vectors, options)
    return chosen, tuple(
        replace(trial, engine=None) if trial is not chosen else chosen for trial in trials
    )


def _choose(trials: list[Trial], vectors: WordVectors, options: IndexOptions) -> Trial:
    limit = options.memory * 4 * len(vectors) * vectors.width
    if options.kind.exact:
        return trials[0]
    fit = [
        trial for trial in trials if trial.recall >= safe_recall(options) and trial.bytes <= limit
    ]
    if options.kind is Kind.AUTO:  # the search by tokens may be all there is
        fit = fit or [trial for trial in trials if trial.kind is Kind.TOKENS]
    if not fit:
        best = max(trials, key=lambda trial: trial.recall)
        raise OptionError(
            f"kind {options.kind.value!r} reaches a recall of {best.recall:.3f} with "
            f"{best.bytes / 1e6:,.0f} MB",
            expected=f"at least {options.recall} with at most {limit / 1e6:,.0f} MB",
            remedy="ask for less, or use another kind",
        )
    return min(fit, key=lambda trial: trial.quick)


def safe_recall(options: IndexOptions) -> float:
    """Return the recall to require on held-out queries, so that other queries reach theirs."""
    return min(options.recall + _SAFETY, (1.0 + options.recall) / 2)


def keep_vectors(vectors: WordVectors, codes: int, memory: float) -> None:
    """Keep the vectors, for comparing candidates again, as far as the memory allows.

    With the token embeddings where both fit, else in their place, else not at all.

    Args:
        vectors: which may be kept already; then nothing changes.
        codes: bytes that FAISS holds.
        memory: see :class:`IndexOptions`.
    """
    exact = 4 * len(vectors) * vectors.width
    room = memory * exact - codes
    if vectors.kept is None and exact + vectors.bytes <= room:
        vectors.keep()
    elif vectors.kept is None and exact + vectors.bytes_of_ids <= room:
        vectors.keep(tables=False)


@dataclass(frozen=True, eq=False)
class _Bench:
    """Queries with their true best words: those to choose by, those to measure on."""

    vectors: WordVectors
    options: IndexOptions
    chosen_on: Tensor
    held_out: Tensor
    truth_chosen: Tensor
    least_held: Tensor

    @classmethod
    def of(cls, vectors: WordVectors, options: IndexOptions, queries: Tensor | None) -> _Bench:
        generator = torch.Generator().manual_seed(options.seed)
        if queries is None:
            queries = torch.randn(_RANDOM_QUERIES, vectors.width, generator=generator)
        queries = queries[torch.randperm(len(queries), generator=generator)]
        k = min(options.top_k, len(vectors))
        parts = torch.split(queries, 32)
        found = [search_tokens(vectors, part, k, options.metric) for part in parts]
        least = torch.cat([scores[:, -1] for scores, _ in found])
        truth = torch.cat([ids for _, ids in found])
        half = (len(queries) + 1) // 2
        # A single query is measured on itself; more are never measured where they chose.
        second = slice(half if len(queries) > 1 else 0, None)
        return cls(vectors, options, queries[:half], queries[second], truth[:half], least[second])

    @property
    def k(self) -> int:
        return self.truth_chosen.shape[1]

    def trial(self, variant: Variant) -> Trial:
        kind, size = variant
        if kind is Kind.TOKENS:
            return Trial(kind, None, 1.0, *self._time(None), bytes=self.vectors.bytes)
        options = self.options
        engine = Approximate.build(
            self.vectors,
            kind,
            options.metric,
            projection=self._projection(size),
            seed=options.seed,
        )
        if kind is Kind.FLAT:  # needs no token embeddings
            flat = 4 * len(self.vectors) * self.vectors.width
            return Trial(kind, engine, 1.0, *self._time(engine), bytes=flat)
        codes = int(engine.serialize().nbytes)  # what FAISS writes is what it holds
        keep_vectors(self.vectors, codes, options.memory)
        recall, seconds, engine = self._fit_candidates(engine)
        held = self.vectors.bytes + codes
        return Trial(
            kind,
            engine,
            recall,
            *seconds,
            bytes=held,
            reduced_to=size or None,
            candidates=engine.candidates,
        )

    def _projection(self, size: int) -> Projection | None:
        if not size:
            return None
        rng = np.random.default_rng(self.options.seed)
        rows = self.vectors.rows(torch.from_numpy(rng.permutation(len(self.vectors))[:_SAMPLE]))
        if self.options.metric is Metric.COSINE:
            rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
        return Projection.fit(rows, self.chosen_on, size, self.options.seed)

    def _fit_candidates(self, engine: Approximate) -> Measured:
        """Find the fewest candidates that hold on the held-out queries; else the best there is."""
        curve = self._curve(engine)
        best: Measured = (0.0, (float("inf"),) * 2, engine)
        for margin in _MARGINS:
            goal = min(self.options.recall + margin, (1.0 + self.options.recall) / 2)
            enough = (curve >= goal - 1e-6).nonzero()
            if not len(enough):
                break
            best = max(best, self._measured(engine, int(enough[0, 0]) + 1), key=_recall_of)
            if best[0] >= safe_recall(self.options):
                return best
        return max(best, self._measured(engine, len(curve)), key=_recall_of)

    def _measured(self, engine: Approximate, candidates: int) -> Measured:
        one = engine.with_candidates(max(self.k, candidates))
        return self._recall(one), self._time(one), one

    def _curve(self, engine: Approximate) -> Tensor:
        """``(candidates,)``: the recall, by how many candidates are scored again."""
        most = min(_MOST_CANDIDATES * self.k, len(self.vectors))
        found = engine.search(self.chosen_on, self.k, most)
        hits = torch.stack(
            [torch.isin(row, true) for row, true in zip(found, self.truth_chosen, strict=True)]
        )
        return hits.float().cumsum(1).mean(0) / self.k

    def _recall(self, engine: Approximate) -> float:
        """Share of held-out queries' best found; a word that ties with the last of them counts."""
        scores = approximate(self.vectors, engine, self.held_out, self.k)[0]
        least = self.least_held - 1e-5 * self.least_held.abs()
        return float((scores >= least[:, None]).float().mean())

    def _time(self, engine: Approximate | None) -> tuple[float, float]:
        """Median and lower quartile; the latter is steadier where others use the machine too."""
        seconds = []
        for turn in range(_TIMED + 2):
            row = turn % len(self.held_out)
            query = self.held_out[row : row + 1]
            start = time.perf_counter()
            search_words(self.vectors, engine, query, self.k, metric=self.options.metric)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[2:])), float(np.quantile(seconds[2:], 0.25))


def _recall_of(measured: Measured) -> float:
    return measured[0]
