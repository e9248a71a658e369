"""Choosing a kind and its effort by measurement, on queries of the sort that will be asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuse_index.errors import MissingDependencyError, OptionError
from fuse_index.index.approximate import Approximate, Effort, require_kind
from fuse_index.index.options import IndexOptions, Kind, Metric
from fuse_index.index.reducing import Reduction
from fuse_index.index.searching import approximate, search_words
from fuse_index.index.tokens import search_tokens
from fuse_index.index.vectors import WordVectors

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

Measured = tuple[float, tuple[float, float], Approximate]
"""Recall, seconds (median and lower quartile), and the index with its effort."""

LEAST_WORDS = 1024
"""Fewer words are not worth an approximation, nor enough to train one."""
_WORTH_LISTS = 1 << 15
_WORTH_REDUCING = 1 << 14
_REDUCED = (128, 256)
_SAMPLE = 20_000
_MARGINS = (0.015, 0.025, 0.035)
_SAFETY = 0.005
"""What a measured recall must have to spare: other queries give a little less or more."""
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
_BREADTHS = (64, 128, 256, 512, 1024)
_MOST_CANDIDATES = 80
_TIMED = 31
_RANDOM_QUERIES = 128


@dataclass(frozen=True, eq=False)
class Trial:
    """What one kind came to.

    Attributes:
        kind: which one.
        engine: the FAISS index with its effort; ``None`` for the search by tokens.
        recall: share of the truly best words found, on queries held out; 1 for exact kinds.
        seconds: median time of a single query.
        quick: lower quartile of that time, by which kinds are compared.
        bytes: memory of the index and of what it compares again.
        built: seconds that training and adding took.
        reduced_to: dimensions that words and queries are reduced to, if they are.
        lifted: whether the largest inner product is searched as a nearest neighbour.
        effort: of an approximate kind.
    """

    kind: Kind
    engine: Approximate | None
    recall: float
    seconds: float
    quick: float
    bytes: int
    built: float
    reduced_to: int | None = None
    lifted: bool = False
    effort: Effort | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON object."""
        return {
            "kind": self.kind.value,
            "recall": round(self.recall, 4),
            "seconds": round(self.seconds, 6),
            "bytes": self.bytes,
            "effort": self.effort.to_dict() if self.effort else {},
            "lifted": self.lifted,
            "reduced_to": self.reduced_to,
        }


@dataclass(frozen=True)
class Variant:
    """One thing to try.

    Attributes:
        kind: any but ``auto``.
        lifted: whether the largest inner product is searched as a nearest neighbour.
        reduced: dimensions that words and queries are reduced to; 0 leaves them.
    """

    kind: Kind
    lifted: bool = False
    reduced: int = 0


def variants(
    words: int, width: int, options: IndexOptions, measured: bool = True
) -> tuple[Variant, ...]:
    """Say what is tried; ``auto`` leaves out what lost wherever measured (docs/word-index.md).

    Args:
        words: how many there are.
        width: of their vectors.
        options: see :class:`IndexOptions`.
        measured: whether there are samples of queries to reduce dimensions by.

    Raises:
        OptionError: an approximate kind for too few words.
    """
    kind = options.kind
    if kind is not Kind.AUTO and not kind.exact and words < LEAST_WORDS:
        raise OptionError(
            f"kind {kind.value!r} for {words} words",
            expected=f"at least {LEAST_WORDS} words",
            remedy="use 'flat', 'tokens' or 'auto'",
        )
    found = [Variant(Kind.FLAT), Variant(Kind.TOKENS)] if kind is Kind.AUTO else [Variant(kind)]
    if kind in (Kind.HNSW, Kind.IVF_SQ) and options.metric is Metric.INNER_PRODUCT:
        found.append(Variant(kind, lifted=True))
    if kind is Kind.AUTO and words >= LEAST_WORDS:
        found.append(Variant(Kind.PQ))
    # Lists do not prune where queries are gradients, for which the inner product is.
    if kind is Kind.AUTO and words >= _WORTH_LISTS and options.metric is not Metric.INNER_PRODUCT:
        found.append(Variant(Kind.IVF_PQ))
    if kind is Kind.PQ or (kind is Kind.AUTO and words >= _WORTH_REDUCING):
        sizes = [size for size in _REDUCED if size < width]
        if measured and options.metric is not Metric.L2:
            found += [Variant(Kind.PQ, reduced=size) for size in sizes]
    return tuple(found)


def tune(
    vectors: WordVectors,
    options: IndexOptions,
    queries: Tensor | None,
    progress: Progress | None = None,
) -> tuple[Trial, tuple[Trial, ...]]:
    """Build what is asked for, or everything worth a try, and choose.

    Args:
        vectors: of ``n`` words.
        options: see :class:`IndexOptions`.
        queries: ``(m, width)``, of the sort that will be asked: half of them set the effort, the
            others measure it. ``None`` draws random directions.
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
    """The recall that must be measured, so that the one asked for holds on other queries."""
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
        start = time.perf_counter()
        engine = None
        kind = variant.kind
        if kind is not Kind.TOKENS:
            require_kind(kind)
            engine = Approximate.build(
                self.vectors,
                kind,
                self.options.metric,
                lifted=variant.lifted,
                reduction=self._reduction(variant.reduced),
                seed=self.options.seed,
            )
        built = time.perf_counter() - start
        if engine is None or kind.exact:  # a flat index needs no token embeddings
            flat = 4 * len(self.vectors) * self.vectors.width
            size = self.vectors.bytes if engine is None else flat
            return Trial(kind, engine, 1.0, *self._time(engine), bytes=size, built=built)
        codes = int(engine.serialize().nbytes)  # what FAISS writes is what it holds
        keep_vectors(self.vectors, codes, self.options.memory)
        size = self.vectors.bytes + codes
        recall, seconds, engine = self._fit_effort(engine)
        return Trial(
            kind,
            engine,
            recall,
            *seconds,
            bytes=size,
            built=built,
            reduced_to=variant.reduced or None,
            lifted=variant.lifted,
            effort=engine.effort,
        )

    def _reduction(self, size: int) -> Reduction | None:
        if not size:
            return None
        rng = np.random.default_rng(self.options.seed)
        rows = self.vectors.rows(torch.from_numpy(rng.permutation(len(self.vectors))[:_SAMPLE]))
        if self.options.metric is Metric.COSINE:
            rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
        return Reduction.fit(rows, self.chosen_on, size, self.options.seed)

    def _fit_effort(self, engine: Approximate) -> Measured:
        """Find the fastest effort that holds on the held-out queries; else the best there is."""
        curves = [(probe, self._curve(engine, probe)) for probe in _probes(engine)]
        best: Measured = (0.0, (float("inf"),) * 2, engine)
        for margin in _MARGINS:
            goal = min(self.options.recall + margin, (1.0 + self.options.recall) / 2)
            fit = [engine.with_effort(effort) for effort in _reaching(curves, goal, self.k)]
            timed = [(self._time(one)[::-1], number) for number, one in enumerate(fit)]
            if not timed:
                break
            seconds, number = min(timed)
            found = (self._recall(fit[number]), seconds[::-1], fit[number])
            best = max(best, found, key=_recall_of)
            if best[0] >= safe_recall(self.options):
                return best
        probe, curve = max(curves, key=lambda pair: float(pair[1][-1]))
        hardest = engine.with_effort(Effort(probe, len(curve)))
        return max(best, (self._recall(hardest), self._time(hardest), hardest), key=_recall_of)

    def _curve(self, engine: Approximate, probe: int) -> Tensor:
        """``(candidates,)``: the recall, by how many candidates are compared again."""
        most = min(_MOST_CANDIDATES * self.k, len(self.vectors))
        found = engine.search(self.chosen_on, self.k, Effort(probe, most))
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


def _probes(engine: Approximate) -> list[int]:
    if engine.kind is Kind.HNSW:
        return list(_BREADTHS)
    return sorted({max(1, round(engine.lists * share)) for share in _SHARES})


def _reaching(curves: list[tuple[int, Tensor]], goal: float, k: int) -> Iterator[Effort]:
    """For every probe that can, the fewest candidates that reach a recall."""
    for probe, curve in curves:
        enough = (curve >= goal - 1e-6).nonzero()
        if len(enough):
            yield Effort(probe, max(k, int(enough[0, 0]) + 1))
