"""The cost of a build: seconds, bytes and memory as functions of words, widths and groups.

Work is counted exactly where it can be: floating-point operations of the sums and the solutions,
characters that the tokenizers read, bytes that are written. Rates turn work into seconds
(:mod:`fuse_index.build.forecast.rates`). docs/scale.md derives the formulas and compares them with
measured builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fuse_index.adapter.fit._spectrum import face_weights
from fuse_index.adapter.fit.stream import SHARD_WORDS as FIT_SHARD_WORDS
from fuse_index.build.forecast.memory import peak_bytes
from fuse_index.build.forecast.rates import EIGEN, TYPICAL, Rates
from fuse_index.build.forecast.size import Footprint, lay_out
from fuse_index.bundle.layout import WORDS
from fuse_index.errors import OptionError
from fuse_index.words.corpus.counting import SMALL_BYTES
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
_COMPLEX = 4.0  # a complex multiplication is four real ones
_TOKEN_BYTES = 6.0  # of text a word, its space included
_ENTRY_BYTES = 10.0  # of a word in the counts of a shard
_WORD_BYTES = 9.0  # UTF-8 of a word


@dataclass(frozen=True)
class CostEstimate:
    """The predicted cost of a build.

    Attributes:
        seconds: by stage.
        flops: of the fit.
        footprint: of the bundle.
        work_bytes: on the disk while it is built.
        memory_bytes: the largest resident set.
    """

    seconds: dict[str, float]
    flops: float
    footprint: Footprint
    work_bytes: float
    memory_bytes: float

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
    rates: Rates = TYPICAL,
) -> CostEstimate:
    """CostEstimate a build from the number of its words.

    Args:
        words: in the table.
        widths: of source and target embeddings.
        groups: the share of the words, or their number, by (p, q); typical ones if not given.
        corpus_bytes: of the text that is counted.
        vocabularies: rows of the embedding tables.
        with_groups: whether group tensors are written.
        rates: of the machine.

    Raises:
        OptionError: a number is not positive.
    """
    if words < 1 or min(widths) < 1 or corpus_bytes < 0:
        raise OptionError(
            f"estimate: words={words}, widths={widths}, corpus_bytes={corpus_bytes}",
            expected="positive numbers",
        )
    shares = groups or TYPICAL_SHARES
    total = sum(shares.values())
    sizes = {pair: words * share / total for pair, share in shares.items() if share}
    room = lay_out(sizes, _WORD_BYTES * words, widths, with_groups=with_groups)
    return estimate_build(
        room, sizes, widths, corpus_bytes=corpus_bytes, vocabularies=vocabularies, rates=rates
    )


def estimate_build(
    room: Footprint,
    sizes: Mapping[Pair, float],
    widths: tuple[int, int],
    *,
    corpus_bytes: float,
    vocabularies: tuple[int, int],
    rates: Rates,
    holdout: float = 0.1,
    tried: float | None = None,
    distinct: float | None = None,
) -> CostEstimate:
    """CostEstimate a build whose bundle is known.

    Args:
        room: what the bundle takes.
        sizes: words by (p, q).
        widths: of source and target embeddings.
        corpus_bytes: of the text that is counted.
        vocabularies: rows of the embedding tables.
        rates: of the machine.
        holdout: share of the words kept for the quality report.
        tried: words that are tokenized, those left out too; those of the table if not given.
        distinct: words that are counted, rare ones too; ``tried`` if not given.
    """
    words = sum(sizes.values())
    tried = words if tried is None else tried
    distinct = tried if distinct is None else distinct
    sums = sum(n * (1.0 - holdout) * sum_flops(pair, widths) for pair, n in sizes.items())
    solving = sum(solve_flops(pair, widths) for pair in sizes)
    quality = sum(n * holdout * quality_flops(pair, widths) for pair, n in sizes.items())
    gathered = sum(n * gathered_bytes(pair, widths) for pair, n in sizes.items())
    table = room.files[WORDS]
    entries = counted_entries(corpus_bytes, distinct)
    seconds = {
        "counting words": _counting(corpus_bytes, distinct, entries, rates),
        "tokenizing words": 2 * tried / rates.tried_words,
        "fitting adapters": sums / rates.flops
        + quality / rates.report_flops
        + solving / rates.solve_flops
        + gathered / rates.embedded_bytes
        + 2 * table / rates.written_bytes,
        "writing the bundle": (sum(room.files.values()) + 8 * table) / rates.written_bytes,
        "starting": rates.startup,
    }
    sharded = tried > SHARD_WORDS
    return CostEstimate(
        seconds,
        sums + solving + quality,
        room,
        work_bytes=3 * table + 20 * distinct + _ENTRY_BYTES * entries if sharded else 0.0,
        memory_bytes=peak_bytes(
            tried,
            widths,
            vocabularies,
            fit=max(sums_bytes(pair, widths, n > FIT_SHARD_WORDS) for pair, n in sizes.items()),
            counted=sharded and corpus_bytes > 0,
        ),
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
    face = EIGEN * source**3 + 4.0 * source**2 * columns
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


def sums_bytes(pair: Pair, widths: tuple[int, int], sharded: bool) -> float:
    """Bytes of the sums of a group, thrice if in several shards, and of the systems solved."""
    (p, q), (source, target) = pair, widths
    real, complex_ = (1, 0) if p == 1 else _faces(max(p, q))
    columns = target * (q if p == 1 else 1)
    sums = real * (source**2 + source * columns) + complex_ * (2 * source**2 + 3 * source * columns)
    faces = (real + 2 * complex_) * (2 * source**2 + 3 * source * columns)
    return float(_FLOAT64 * ((3 if sharded else 1) * sums + faces))


def _faces(k: int) -> tuple[int, int]:
    """Real and complex faces of the half spectrum."""
    weights = face_weights(k)
    return weights.count(1), weights.count(2)
