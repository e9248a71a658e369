"""Samples of the words of a build, from a corpus, a list, or the vocabularies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fuse_index.common.progress import Tick
from fuse_index.errors import CorpusError, VocabularyError
from fuse_index.words.corpus.lengths import LONGEST_WORD
from fuse_index.words.corpus.reading import TextSource, read_text
from fuse_index.words.corpus.shards import split_sources
from fuse_index.words.corpus.words import CorpusOptions, WordCounts, count_words, read_word_list
from fuse_index.words.tokenizers.tokenization import WordTokenizer

SAMPLE_BYTES = 64 << 20
"""A corpus up to this size is counted whole; of a larger one so much is read."""
SAMPLE_WORDS = 50_000
"""So many words are tokenized."""

_PIECES = 64  # places of a large corpus that are read
_LEAST_PIECE = 1 << 20


class Origin(str, Enum):
    """Where the words of a pre-flight come from."""

    CORPUS = "corpus"
    LIST = "list of words"
    VOCABULARIES = "vocabularies"
    """Nothing was given: the words that are one token of either model stand in."""


@dataclass(frozen=True, eq=False)
class WordSample:
    """Words with how many of the build's words each stands for.

    Attributes:
        counts: the sampled words, the most frequent first.
        weights: ``(n,)`` float64, summing to ``total``.
        total: words that will be tokenized.
        distinct: words that will be counted, before rare ones are left out.
        corpus_bytes: of the text; 0 without a corpus.
        read_bytes: of it that were read.
        seconds: that reading and counting took.
        origin: where they come from.
    """

    counts: WordCounts
    weights: NDArray[np.float64]
    total: float
    distinct: float
    corpus_bytes: int
    read_bytes: int
    seconds: float
    origin: Origin

    @property
    def whole(self) -> bool:
        """Whether every word was counted, so that the number of words is no guess."""
        return self.read_bytes == self.corpus_bytes


def sample_corpus(
    sources: Sequence[TextSource], options: CorpusOptions, progress: Tick, seed: int = 0
) -> WordSample:
    """Count a corpus, or pieces of a large one from all over it.

    The number of words of a large corpus follows from that of the pieces by Heaps' law,
    ``V = K n^beta``, with the exponent between the half of the sample and the whole (Heaps,
    "Information Retrieval", 1978, section 7.5). The words that were not seen are taken for words
    like the rarest that were.

    Args:
        sources: of the corpus; none of them standard input.
        options: how text becomes words.
        progress: called with (bytes read, bytes to read).
        seed: of the draw of pieces and words.

    Raises:
        CorpusError: a source cannot be read, cannot be read twice, or holds no word.
    """
    for source in sources:
        if not source.again or source.size is None:
            raise CorpusError(
                f"doctor: {source.name} can be read only once",
                expected="a corpus that the build can read again",
                remedy="put the text into a file",
            )
    size = sum(source.size or 0 for source in sources)
    start = time.perf_counter()
    if size <= SAMPLE_BYTES:
        counts = count_words(list(sources), options, progress)
        return _whole_sample(counts, start, Origin.CORPUS, seed, size)
    return _sample_large(sources, size, options, progress, seed)


def _whole_sample(
    counts: WordCounts, start: float, origin: Origin, seed: int, size: int = 0
) -> WordSample:
    """Return a sample of words that were all counted since ``start``."""
    total, seconds = float(len(counts)), time.perf_counter() - start
    return WordSample(*_thin(counts, total, seed), total, total, size, size, seconds, origin)


def _sample_large(
    sources: Sequence[TextSource], size: int, options: CorpusOptions, progress: Tick, seed: int
) -> WordSample:
    start = time.perf_counter()
    counter: Counter[str] = Counter()
    read, half = 0, (0, 0, 0)  # bytes, distinct words, words that stay
    for taken, words in _pieces(sources, size, options, seed):
        counter.update(words)
        read += taken
        if not half[0] and 2 * read >= SAMPLE_BYTES:
            half = (read, len(counter), _kept(counter, options))
        progress(min(read, SAMPLE_BYTES), SAMPLE_BYTES)
    seen = _kept(counter, options)
    if not seen:
        raise CorpusError(
            f"no word occurs {options.min_count} times in {read / 1e6:,.0f} MB of the corpus",
            expected="text with words",
            remedy="lower --min-count",
        )
    growth = size / max(read, 1)
    distinct = _heaps(half[1], len(counter), half[0] / read, growth)
    total = max(float(seen), _heaps(half[2], seen, half[0] / read, growth))
    if options.max_words is not None:
        total = min(total, float(options.max_words))
    listed = [item for item in counter.items() if item[1] >= options.min_count]
    listed.sort(key=lambda item: (-item[1], item[0]))
    listed = listed[: options.max_words]
    found = tuple(word for word, _ in listed)
    numbers = np.array([number for _, number in listed], np.int64)
    counts, weights = _thin(WordCounts(found, numbers), total, seed)
    seconds = time.perf_counter() - start
    return WordSample(counts, weights, total, distinct, size, read, seconds, Origin.CORPUS)


def _pieces(
    sources: Sequence[TextSource], size: int, options: CorpusOptions, seed: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield words from places all over the corpus, with the bytes that they took on the disk."""
    shards = split_sources(sources, options.encoding, max(_LEAST_PIECE, size // _PIECES))
    left = SAMPLE_BYTES
    for number in np.random.default_rng(seed).permutation(len(shards)).tolist():
        taken = 0

        def count(more: int) -> None:
            nonlocal taken
            taken += more

        before = 0
        for piece in read_text(shards[number], options.encoding, count):
            # Words that the border of a piece may cut are left out: two in a megabyte.
            words = [word for word in piece.split()[1:-1] if len(word) <= LONGEST_WORD]
            yield taken - before, [word.lower() for word in words] if options.lowercase else words
            before = taken
            if taken >= SAMPLE_BYTES // _PIECES:
                break
        left -= taken
        if left <= 0:
            return


def _kept(counter: Counter[str], options: CorpusOptions) -> int:
    return sum(count >= options.min_count for count in counter.values())


def _heaps(half: int, whole: int, share: float, growth: float) -> float:
    """Continue the growth from ``half`` (of ``share`` of the text) to ``whole`` by a power law."""
    if not half or not 0.0 < share < 1.0:
        return whole * growth
    beta = min(1.0, max(0.0, np.log(whole / half) / -np.log(share)))
    return float(whole * growth**beta)


def sample_list(path: str | Path, options: CorpusOptions, seed: int = 0) -> WordSample:
    """Read a list of words.

    Raises:
        CorpusError: it cannot be read, or a line is no word.
    """
    start = time.perf_counter()
    return _whole_sample(read_word_list(path, options), start, Origin.LIST, seed)


def sample_vocabularies(source: WordTokenizer, target: WordTokenizer, seed: int = 0) -> WordSample:
    """Take the words that are one token inside running text, of either tokenizer.

    Raises:
        VocabularyError: there is none.
    """
    start = time.perf_counter()
    found = dict.fromkeys([*_whole_words(source), *_whole_words(target)])
    if not found:
        raise VocabularyError(
            "no token of either vocabulary is a word",
            expected="tokenizers with whole words among their tokens",
            remedy="name a corpus with --corpus, or a list with --words",
        )
    counts = WordCounts(tuple(found), np.ones(len(found), np.int64))
    return _whole_sample(counts, start, Origin.VOCABULARIES, seed)


def _whole_words(tokenizer: WordTokenizer) -> list[str]:
    ids = [id_ for id_ in range(tokenizer.vocab_size) if tokenizer.token(id_) is not None]
    ids = [id_ for id_ in ids if id_ not in tokenizer.special_ids]
    texts = [text.strip() for text in tokenizer.decode_batch([[id_] for id_ in ids])]
    named = [(id_, text) for id_, text in zip(ids, texts, strict=True) if text.isalpha()]
    rows = tokenizer.encode_words([text for _, text in named]).to_lists()
    return [text for (id_, text), row in zip(named, rows, strict=True) if row == [id_]]


def _thin(counts: WordCounts, total: float, seed: int) -> tuple[WordCounts, NDArray[np.float64]]:
    """Draw at most :data:`SAMPLE_WORDS` words, with how many words each stands for.

    What ``total`` exceeds the number of words by are words that were not seen; those with the
    least count stand for them.
    """
    n = len(counts)
    rows = np.arange(n)
    if n > SAMPLE_WORDS:
        rows = np.sort(np.random.default_rng(seed).choice(n, SAMPLE_WORDS, replace=False))
    seen = min(total, float(n))
    numbers = counts.counts[:][rows]
    weights = np.full(len(rows), seen / len(rows))
    rare = numbers == numbers.min()
    weights[rare] += (total - seen) / int(rare.sum())
    return WordCounts(tuple(counts.words[i] for i in rows.tolist()), numbers), weights
