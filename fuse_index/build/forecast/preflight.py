"""Predictions before a build: words left out, sizes, time and memory.

The tokenizers really run on a sample of the words (:mod:`~fuse_index.build.forecast.sampling`), the
machine's rates are measured, the files are laid out (:mod:`~fuse_index.build.forecast.size`); the
rest is the cost model (:mod:`~fuse_index.build.forecast.cost`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fuse_index.build.forecast.cost import estimate_build
from fuse_index.build.forecast.rates import measure_rates
from fuse_index.build.forecast.report import LeftOut, Preflight
from fuse_index.build.forecast.sampling import (
    SAMPLE_BYTES,
    WordSample,
    sample_corpus,
    sample_list,
    sample_vocabularies,
)
from fuse_index.build.forecast.size import footprint, weighted_sizes
from fuse_index.build.options import BuildOptions
from fuse_index.common.progress import Progress, ignore, silent, stage
from fuse_index.errors import CorpusError, VocabularyError
from fuse_index.models.embeddings import Embeddings, load_embeddings
from fuse_index.models.memory import states_bytes
from fuse_index.models.weights import weights_bytes
from fuse_index.words.corpus.reading import find_sources
from fuse_index.words.retokenize.retokenizer import Retokenizer
from fuse_index.words.table import WordTable, tabulate

EXAMPLES = 5
"""Words that are named for every reason that words are left out for."""

_MEASURED = 1.5  # seconds


def preflight(
    source: str,
    target: str,
    corpus: Sequence[str | Path] = (),
    *,
    word_list: str | Path | None = None,
    nested: bool = True,
    options: BuildOptions | None = None,
    local_files_only: bool = False,
    progress: Progress | None = None,
) -> Preflight:
    """Predict a build without making it.

    Args:
        source: the model whose tokens are optimized: Hub id, directory, or ``open_clip:`` name.
        target: the model whose loss is differentiated.
        corpus: as for :func:`fuse_index.build.build_bundle`, but not standard input.
        word_list: a file of words, one a line, instead of a corpus. Without either, the words
            that are one token of either model stand in.
        nested: whether folders in a folder of the corpus are read too.
        options: of the build.
        local_files_only: no network.
        progress: called with (what is done, steps done, steps in all or ``None``).

    Raises:
        CorpusError: there is both a corpus and a list, or one cannot be read.
        ModelError: a model cannot be loaded or its table is not usable.
        VocabularyError: no word can be tokenized by both models.
    """
    if corpus and word_list is not None:
        raise CorpusError("both a corpus and a word list", expected="one of the two")
    options, tell = options or BuildOptions(), progress or silent
    sources = find_sources(corpus, nested=nested) if corpus else []
    start = time.perf_counter()
    tell("loading embeddings", 0, 2)
    first = load_embeddings(source, local_files_only=local_files_only)
    tell("loading embeddings", 1, 2)
    models = first, load_embeddings(target, local_files_only=local_files_only)
    loading = time.perf_counter() - start
    if sources:
        sample = sample_corpus(sources, options.corpus, stage(tell, "counting words"))
    elif word_list is not None:
        sample = sample_list(word_list, options.corpus)
    else:
        sample = sample_vocabularies(models[0].words, models[1].words)
    tell("trying words", 0, None)
    tried = _try(sample, models, options)
    tell("measuring this machine", 0, None)
    return _predict(
        sample, models, options, tried, loading=loading, local_files_only=local_files_only
    )


@dataclass(frozen=True, eq=False)
class _Tried:
    """What the tokenizers made of the sample."""

    table: WordTable
    weights: NDArray[np.float64]
    left_out: tuple[LeftOut, ...]
    rate: float


def _try(
    sample: WordSample, models: tuple[Embeddings, Embeddings], options: BuildOptions
) -> _Tried:
    weight_of = dict(zip(sample.counts.words, sample.weights.tolist(), strict=True))
    left_out: list[LeftOut] = []

    def tell(reason: str, words: list[str]) -> None:
        if words:
            total = sum(weight_of[word] for word in words)
            left_out.append(LeftOut(reason, total, tuple(words[:EXAMPLES])))

    start = time.perf_counter()
    both = models[0].words, models[1].words
    table, _ = tabulate(sample.counts, *both, options.table, ignore, tell=tell)
    seconds = time.perf_counter() - start
    if not len(table):
        reasons = ", ".join(f"{item.reason} ({item.examples[0]!r})" for item in left_out)
        raise VocabularyError(
            f"none of {len(sample.counts)} words can be tokenized by both models: {reasons}",
            expected="at least one word",
            remedy="use another corpus, or raise --max-tokens",
        )
    weights = np.array([weight_of[word] for word in table.words])
    ordered = tuple(sorted(left_out, key=lambda item: -item.words))
    return _Tried(table, weights, ordered, 2 * len(sample.counts) / max(seconds, 1e-6))


def _predict(
    sample: WordSample,
    models: tuple[Embeddings, Embeddings],
    options: BuildOptions,
    tried: _Tried,
    *,
    loading: float,
    local_files_only: bool,
) -> Preflight:
    source, target = models
    tables = source.table, target.table
    widths = tables[0].shape[1], tables[1].shape[1]
    identity = not source.identity.differences(target.identity)
    expected = estimate_build(
        footprint(tried.table, tried.weights, widths, options, identity=identity),
        weighted_sizes(tried.table, tried.weights),
        widths,
        corpus_bytes=sample.corpus_bytes,
        vocabularies=(len(tables[0]), len(tables[1])),
        rates=replace(measure_rates(_MEASURED), tried_words=tried.rate, startup=loading),
        holdout=options.fit.holdout,
        tried=sample.total,
        distinct=sample.distinct,
    )
    seconds = {"loading embeddings": expected.seconds.pop("starting"), **expected.seconds}
    if sample.corpus_bytes <= SAMPLE_BYTES:
        seconds["counting words"] = sample.seconds  # it was done
    if identity:
        seconds["fitting adapters"] = 0.0
    weights = [weights_bytes(model.name, local_files_only=local_files_only) for model in models]
    words = float(tried.weights.sum())
    states = [states_bytes(model.name, words, local_files_only) for model in models]
    return Preflight(
        source=source,
        target=target,
        sample=sample,
        left_out=tried.left_out,
        footprint=expected.footprint,
        seconds=seconds,
        build_bytes=expected.memory_bytes,
        work_bytes=sum(expected.footprint.files.values()) + expected.work_bytes,
        weights=(weights[0], weights[1]),
        states=(states[0], states[1]),
        retokenizer=Retokenizer(source.words, target.words).path,
        identity=identity,
    )
