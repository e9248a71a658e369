"""What a build costs: seconds, bytes and memory as functions of words, widths and groups.

Work is counted exactly where it can be: floating-point operations of the sums and the solutions,
characters that the tokenizers read, bytes that are written. Rates turn work into seconds; they
are measured on the machine at hand in about two seconds (:func:`measure_rates`), or taken from
:data:`TYPICAL`. docs/scale.md derives the formulas and compares them with measured builds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from fuse_index.adapter.fit._spectrum import face_weights
from fuse_index.adapter.fit.stream import SHARD_WORDS as FIT_SHARD_WORDS
from fuse_index.errors import OptionError
from fuse_index.words.corpus.counting import DEFAULT_MEMORY, SMALL_BYTES
from fuse_index.words.corpus.shards import SHARD_BYTES
from fuse_index.words.table import SHARD_WORDS

Pair = tuple[int, int]

TYPICAL_SHARES: Mapping[Pair, float] = {
    (1, 1): 0.06,
    (1, 2): 0.03,
    (2, 1): 0.04,
    (2, 2): 0.22,
    (2, 3): 0.13,
    (3, 2): 0.08,
    (3, 3): 0.22,
    (3, 4): 0.06,
    (4, 3): 0.06,
    (4, 4): 0.10,
}
"""Shares of the groups in a large vocabulary of English under two tokenizers."""

_FLOAT64 = 8
_EIGEN = 9.0  # multiples of n^3: a real symmetric eigendecomposition with vectors
_COMPLEX = 4.0  # a complex multiplication is four real ones
_TOKEN_BYTES = 6.0  # of text a word, its space included
_ENTRY_BYTES = 10.0  # of a word in the counts of a shard
_WORD_BYTES = 9.0  # UTF-8 of a word
_OBJECTS = 900  # bytes a word takes while its shard is tokenized
_PROCESS = 620e6  # torch, transformers and the counting engine, loaded


@dataclass(frozen=True)
class Rates:
    """What one machine does in a second, on the cores it has.

    Attributes:
        text_bytes: bytes of text counted by the engine.
        small_text_bytes: bytes of text counted in memory, which a small text is.
        merged_words: distinct words sorted and written.
        merged_entries: words of the shards' counts added up.
        tried_words: words tokenized and tried for the law, in one tokenizer.
        flops: floating-point operations of products in float64.
        solve_flops: those of eigendecompositions.
        report_flops: those of the quality report, as :func:`quality_flops` counts them.
        embedded_bytes: bytes of embeddings gathered and mixed in float64.
        written_bytes: bytes written and hashed.
        startup: seconds before the first word.
    """

    text_bytes: float = 100e6
    small_text_bytes: float = 8e6
    merged_words: float = 2e6
    merged_entries: float = 4e6
    tried_words: float = 30e3
    flops: float = 20e9
    solve_flops: float = 10e9
    report_flops: float = 20e9
    embedded_bytes: float = 1.5e9
    written_bytes: float = 300e6
    startup: float = 4.0

    def scaled(self, machines: float) -> Rates:
        """Return the rates of so many machines of the same kind, without what one must do."""
        return replace(
            self,
            text_bytes=self.text_bytes * machines,
            tried_words=self.tried_words * machines,
            flops=self.flops * machines,
            embedded_bytes=self.embedded_bytes * machines,
        )


TYPICAL = Rates()
"""Two cores of a server processor."""


@dataclass(frozen=True)
class Estimate:
    """What a build will take.

    Attributes:
        seconds: by stage.
        flops: of the fit.
        bundle_bytes: of the bundle, by file.
        work_bytes: on the disk while it is built.
        memory_bytes: the largest resident set.
    """

    seconds: dict[str, float]
    flops: float
    bundle_bytes: dict[str, float]
    work_bytes: float
    memory_bytes: float = field(default=0.0)

    @property
    def total_seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())


def estimate(
    words: int,
    widths: tuple[int, int],
    groups: Mapping[Pair, float] | None = None,
    *,
    corpus_bytes: float = 0.0,
    vocabularies: tuple[int, int] = (50_000, 30_000),
    with_groups: bool = True,
    holdout: float = 0.1,
    distinct: float | None = None,
    rates: Rates = TYPICAL,
) -> Estimate:
    """Estimate what a build will take.

    Args:
        words: in the table.
        widths: of source and target embeddings.
        groups: the share of the words, or their number, by (p, q); typical ones if not given.
        corpus_bytes: of the text that is counted.
        vocabularies: rows of the embedding tables.
        with_groups: whether group tensors are written.
        holdout: share of the words kept for the quality report.
        distinct: words that are counted, before rare ones are left out; ``words`` if not given.
        rates: of the machine.

    Raises:
        OptionError: a number is not positive.
    """
    if words < 1 or min(widths) < 1 or corpus_bytes < 0:
        raise OptionError(
            f"estimate: words={words}, widths={widths}, corpus_bytes={corpus_bytes}",
            expected="positive numbers",
        )
    sizes = _sizes(words, groups or TYPICAL_SHARES)
    distinct = float(words if distinct is None else distinct)
    train = 1.0 - holdout
    sums = sum(n * train * sum_flops(pair, widths) for pair, n in sizes.items())
    solving = sum(solve_flops(pair, widths) for pair in sizes)
    quality = sum(n * holdout * quality_flops(pair, widths) for pair, n in sizes.items())
    gathered = sum(n * gathered_bytes(pair, widths) for pair, n in sizes.items())
    bundle = bundle_bytes(sizes, widths, with_groups=with_groups)
    table = bundle["words.safetensors"]
    entries = counted_entries(corpus_bytes, distinct)
    seconds = {
        "counting words": _counting(corpus_bytes, distinct, entries, rates),
        "tokenizing words": 2 * words / rates.tried_words,
        "fitting adapters": sums / rates.flops
        + quality / rates.report_flops
        + solving / rates.solve_flops
        + gathered / rates.embedded_bytes
        + 2 * table / rates.written_bytes,
        "writing the bundle": sum(bundle.values()) / rates.written_bytes
        + 8 * table / rates.written_bytes,
        "starting": rates.startup,
    }
    return Estimate(
        seconds,
        sums + solving + quality,
        bundle,
        work_bytes=3 * table + 20 * distinct + _ENTRY_BYTES * entries,
        memory_bytes=memory_bytes(words, widths, sizes, vocabularies, corpus_bytes > 0),
    )


def _counting(corpus_bytes: float, distinct: float, entries: float, rates: Rates) -> float:
    """Seconds of counting: a small text in memory, a large one by the engine."""
    if corpus_bytes <= SMALL_BYTES:
        return corpus_bytes / rates.small_text_bytes
    merging = entries / rates.merged_entries + distinct / rates.merged_words
    return corpus_bytes / rates.text_bytes + merging


def counted_entries(corpus_bytes: float, distinct: float) -> float:
    """Words in the counts of all shards together, by Heaps' law (``44 n^0.55`` of ``n``)."""
    shards = max(1.0, corpus_bytes / SHARD_BYTES)
    tokens = corpus_bytes / shards / _TOKEN_BYTES
    return shards * min(distinct, 44.0 * float(tokens**0.55))


def sum_flops(pair: Pair, widths: tuple[int, int]) -> float:
    """Floating-point operations that one word of a group costs in the sums.

    A real face costs half a product of the source with itself and one with the target, a complex
    one one and a half and three (:mod:`fuse_index.adapter.fit.gram`). Words of one source token are
    one real face with their target tokens side by side.
    """
    (p, q), (source, target) = pair, widths
    if p == 1:
        return 2.0 * source * (source / 2 + q * target)
    real, complex_ = _faces(max(p, q))
    grams = 0.5 * real + 1.5 * complex_
    crosses = real + 3 * complex_
    return 2.0 * source * (grams * source + crosses * target)


def solve_flops(pair: Pair, widths: tuple[int, int]) -> float:
    """Floating-point operations of the solution of one group, by eigenvalues."""
    (p, q), (source, target) = pair, widths
    real, complex_ = (1, 0) if p == 1 else _faces(max(p, q))
    columns = target * (q if p == 1 else 1)
    face = _EIGEN * source**3 + 4.0 * source**2 * columns
    return face * (real + _COMPLEX * complex_)


def quality_flops(pair: Pair, widths: tuple[int, int]) -> float:
    """Floating-point operations of measuring one held-out word, in units of float64 ones."""
    (p, q), (source, target) = pair, widths
    return 0.5 * 2.0 * source * target * (p * q + q)


def gathered_bytes(pair: Pair, widths: tuple[int, int]) -> float:
    """Bytes that one word's embeddings take on their way into the products."""
    (p, q), (source, target) = pair, widths
    if p == 1:
        return _FLOAT64 * (2 * source + 2 * q * target)
    real, complex_ = _faces(max(p, q))
    mixed = source * (real + 4 * complex_) + target * (real + 3 * complex_)
    return float(_FLOAT64 * (p * source + q * target + mixed))


def bundle_bytes(
    sizes: Mapping[Pair, float], widths: tuple[int, int], *, with_groups: bool
) -> dict[str, float]:
    """Bytes of a bundle by file: exact but for the words' letters and the headers."""
    source, target = widths
    words = sum(sizes.values())
    ids = sum(n * (p + q) for (p, q), n in sizes.items())
    found = {
        "words.safetensors": words * (_WORD_BYTES + 8 * 5) + 8 * ids,
        "adapter.safetensors": 4.0 * source * target * (1 + sum(max(pair) for pair in sizes)),
    }
    if with_groups:
        found["groups.safetensors"] = 4.0 * sum(
            n * max(pair) * (source + target) for pair, n in sizes.items()
        )
    return found


def memory_bytes(
    words: int,
    widths: tuple[int, int],
    sizes: Mapping[Pair, float],
    vocabularies: tuple[int, int],
    counted: bool,
) -> float:
    """The largest resident set of the stages: it does not grow with the words but for one shard."""
    source, target = widths
    tables = 4.0 * (vocabularies[0] * source + vocabularies[1] * target)
    tokenizing = tables + _OBJECTS * min(words, SHARD_WORDS)
    largest = 0.0
    for (p, q), n in sizes.items():
        real, complex_ = (1, 0) if p == 1 else _faces(max(p, q))
        columns = target * (q if p == 1 else 1)
        sums = real * (source**2 + source * columns)
        sums += complex_ * (2 * source**2 + 3 * source * columns)
        copies = 3 if n > FIT_SHARD_WORDS else 1  # a shard's sums, their total, and its copy
        faces = (real + 2 * complex_) * (2 * source**2 + 3 * source * columns)
        largest = max(largest, _FLOAT64 * (copies * sums + faces))
    counting = float(DEFAULT_MEMORY) if counted and words > SHARD_WORDS else 0.0
    return _PROCESS + max(tokenizing, tables + largest, counting)


def measure_rates(seconds: float = 1.0, base: Rates = TYPICAL) -> Rates:
    """Measure the products, decompositions and gathers of this machine; the rest is ``base``.

    Args:
        seconds: about how long, in all.
        base: rates of what is not measured, scaled by the number of cores beside two.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = (cores or 2) / 2
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(2048, 384, generator=generator, dtype=torch.float64)
    gram = left.T @ left
    ids = torch.randint(0, 2048, (16384,), generator=generator)
    flops = 2.0 * 384 * 384 * 2048
    product = _rate(lambda: left.T @ left, flops, seconds / 3)
    solve = _rate(lambda: torch.linalg.eigh(gram), _EIGEN * 384**3, seconds / 3)
    gather = _rate(lambda: left.index_select(0, ids), 8.0 * 384 * 16384, seconds / 3)
    return replace(
        base,
        text_bytes=base.text_bytes * share,
        tried_words=base.tried_words * share,
        flops=product,
        solve_flops=solve,
        report_flops=product,
        embedded_bytes=gather,
    )


def _rate(work: Callable[[], object], amount: float, seconds: float) -> float:
    work()
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or not best:
        start = time.perf_counter()
        work()
        best = max(best, amount / (time.perf_counter() - start))
    return best


def _faces(k: int) -> tuple[int, int]:
    """Real and complex faces of the half spectrum."""
    weights = face_weights(k)
    return weights.count(1), weights.count(2)


def _sizes(words: int, groups: Mapping[Pair, float]) -> dict[Pair, float]:
    total = sum(groups.values())
    return {pair: words * share / total for pair, share in groups.items() if share}
