"""Before a build: what it will make of two models, how large, how long, in how much memory.

The tokenizers are really tried on a sample of the words (:mod:`fuse_index.build.sampling`), the
machine's rates are really measured, and the files are laid out (:mod:`fuse_index.build.footprint`);
the rest is the cost model (:mod:`fuse_index.build.cost`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.build.cost import TYPICAL, Estimate, Rates, estimate, measure_rates
from fuse_index.build.footprint import footprint, weighted_sizes
from fuse_index.build.forecast import LeftOut, Preflight
from fuse_index.build.options import BuildOptions
from fuse_index.build.sampling import (
    SAMPLE_BYTES,
    WordSample,
    sample_corpus,
    sample_list,
    sample_vocabularies,
)
from fuse_index.errors import CorpusError, VocabularyError
from fuse_index.models.embeddings import Embeddings, load_embeddings
from fuse_index.models.weights import weights_bytes
from fuse_index.words.corpus.reading import find_sources
from fuse_index.words.retokenize.retokenizer import Retokenizer
from fuse_index.words.table import SHARD_WORDS, WordTable, tabulate

EXAMPLES = 5
"""Words that are named for every reason that words are left out for."""

# Measured resident sets of builds of 11,000 to 192,000 words, widths 256 and 384: within 18 %.
_PROCESS = 680e6  # the libraries, loaded, and the tokenizers
_WORD_BYTES = 6.2  # of a word and a column of its embeddings, until a build is done in shards
_WRITTEN = 32  # megabytes
_PASSES = 3.0  # over a bundle that is written: made, checked, hashed
_MEASURED = 1.5  # seconds
_TIMES = 5

Progress = Callable[[str, int, "int | None"], None]


def preflight(
    source: str,
    target: str,
    corpus: Sequence[str | Path] = (),
    *,
    word_list: str | Path | None = None,
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
        options: of the build.
        local_files_only: never ask the Hub.
        progress: called with (what is done, steps done, steps in all or ``None``).

    Raises:
        CorpusError: there is both a corpus and a list, or one cannot be read.
        ModelError: a model cannot be loaded or its table is not usable.
        VocabularyError: no word can be tokenized by both models.
    """
    if corpus and word_list is not None:
        raise CorpusError("both a corpus and a word list", expected="one of the two")
    options, tell = options or BuildOptions(), progress or (lambda *_: None)
    sources = find_sources(corpus) if corpus else []
    start = time.perf_counter()
    tell("loading embeddings", 0, 2)
    first = load_embeddings(source, local_files_only=local_files_only)
    tell("loading embeddings", 1, 2)
    models = first, load_embeddings(target, local_files_only=local_files_only)
    loading = time.perf_counter() - start
    if sources:
        report = partial(tell, "counting words")
        sample = sample_corpus(sources, options.corpus, report)
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
    table, _ = tabulate(sample.counts, *both, options.table, lambda _: None, tell=tell)
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
    widths = source.table.shape[1], target.table.shape[1]
    identity = not source.identity.differences(target.identity)
    room = footprint(tried.table, tried.weights, widths, options, identity=identity)
    expected = _estimate(sample, models, options, tried, loading)
    seconds = {"loading embeddings": expected.seconds.pop("starting"), **expected.seconds}
    if sample.corpus_bytes <= SAMPLE_BYTES:
        seconds["counting words"] = sample.seconds  # it was done
    if identity:
        seconds["fitting adapters"] = 0.0
    streamed = expected.work_bytes if sample.total > SHARD_WORDS else 0.0
    return Preflight(
        source=source,
        target=target,
        sample=sample,
        left_out=tried.left_out,
        footprint=room,
        seconds=seconds,
        build_bytes=expected.memory_bytes,
        work_bytes=sum(room.files.values()) + streamed,
        weights=(
            weights_bytes(source.name, local_files_only=local_files_only),
            weights_bytes(target.name, local_files_only=local_files_only),
        ),
        retokenizer=Retokenizer(source.words, target.words).path,
        identity=identity,
    )


def _estimate(
    sample: WordSample,
    models: tuple[Embeddings, Embeddings],
    options: BuildOptions,
    tried: _Tried,
    loading: float,
) -> Estimate:
    """Ask the cost model, with rates of this machine and of this sample."""
    tables = models[0].table, models[1].table
    widths = tables[0].shape[1], tables[1].shape[1]
    rates = replace(
        _best_rates(),
        tried_words=tried.rate,
        startup=loading,
        written_bytes=_writing_rate() / _PASSES,
    )
    found = estimate(
        max(1, round(tried.weights.sum())),
        widths,
        weighted_sizes(tried.table, tried.weights),
        corpus_bytes=sample.corpus_bytes,
        vocabularies=(len(tables[0]), len(tables[1])),
        with_groups=options.groups,
        holdout=options.fit.holdout,
        distinct=sample.distinct,
        rates=rates,
    )
    found.seconds["tokenizing words"] = 2 * sample.total / tried.rate  # those left out too
    held = _PROCESS + 1.5 * sum(4.0 * table.numel() for table in tables)
    held += _WORD_BYTES * sum(widths) * min(sample.total, SHARD_WORDS)
    return replace(found, memory_bytes=max(found.memory_bytes, held))


def _best_rates() -> Rates:
    """The machine's rates, measured some times: what else it did at a moment does not count.

    One thread is measured and multiplied, as a fit works: its workers do not wait for each other.
    Two that do were seen to take thirty times as long on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [measure_rates(_MEASURED / _TIMES) for _ in range(_TIMES)]
    finally:
        torch.set_num_threads(threads)
    best = {
        name: threads * max(getattr(rates, name) for rates in found)
        for name in ("flops", "solve_flops", "embedded_bytes")
    }
    return replace(found[0], **best)


def _writing_rate() -> float:
    """Bytes a second that are hashed and reach the disk."""
    block = bytes(1 << 20)
    try:
        with tempfile.TemporaryFile() as file:
            start, digest = time.perf_counter(), hashlib.sha256()
            for _ in range(_WRITTEN):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return _WRITTEN * len(block) / (time.perf_counter() - start)
    except OSError:  # no room, or nowhere to write
        return TYPICAL.written_bytes
