"""Words and their counts, from text or from a word list."""

from __future__ import annotations

import codecs
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fuse_index.common.options import Count, options
from fuse_index.common.progress import Tick, adding, ignore
from fuse_index.errors import CorpusError, OptionError
from fuse_index.words.corpus.lengths import (
    LONGEST_LINE,
    LONGEST_WORD,
    report_long_words,
    split_lines,
    without_long_words,
)
from fuse_index.words.corpus.reading import TextSource, find_sources, read_text, total_size
from fuse_index.words.corpus.stored import StoredArray

logger = logging.getLogger(__name__)

_HASHED_WORDS = 1 << 16


@options()
class CorpusOptions:
    """How text becomes words.

    Attributes:
        encoding: the codec of every file.
        lowercase: lower-case every word.
        min_count: words seen fewer times are dropped.
        max_words: keep only so many, the most frequent; None keeps all.

    Raises:
        OptionError: if a number is below 1 or the codec is unknown.
    """

    encoding: str = "utf-8"
    lowercase: bool = False
    min_count: Count = 1
    max_words: Count | None = None

    def __post_init__(self) -> None:
        try:
            codecs.getincrementaldecoder(self.encoding)
            known = codecs.lookup(self.encoding)._is_text_encoding
        except LookupError:
            known = False
        if not known:
            raise OptionError(
                f"encoding={self.encoding!r}",
                expected="a text encoding Python knows",
                remedy="for example utf-8, latin-1, cp1252 or utf-16",
            )


@dataclass(frozen=True, eq=False)
class WordCounts:
    """Distinct words with their counts, the most frequent first, ties in code-point order.

    Args:
        words: ``n`` words; none is empty or holds white space.
        counts: ``(n,)`` int64, at least 1 each. Both may be in files, of which parts are read.
    """

    words: Sequence[str]
    counts: NDArray[np.int64] | StoredArray

    def __len__(self) -> int:
        return len(self.words)

    def part(self, start: int, stop: int) -> WordCounts:
        """Return the words from ``start`` to ``stop``, in memory."""
        return WordCounts(self.words[start:stop], self.counts[start:stop])

    def sha256(self) -> str:
        """The hash, in hex, of words and counts: equal if and only if both are."""
        digest, starts = hashlib.sha256(), range(0, len(self), _HASHED_WORDS)
        for start in starts:
            text = "\n".join(self.words[start : start + _HASHED_WORDS])
            digest.update(b"\n" * bool(start) + text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
        for start in starts:
            digest.update(self.counts[start : start + _HASHED_WORDS].astype("<i8").tobytes())
        return digest.hexdigest()


def count_words(
    sources: Sequence[str | Path] | Sequence[TextSource],
    options: CorpusOptions | None = None,
    progress: Tick | None = None,
    check: Callable[[int], None] | None = None,
) -> WordCounts:
    """Count the white-space-delimited words of any number of texts.

    Text is split where :meth:`str.split` splits it, wherever the boundaries of the chunks fall in
    which it is read. Words of more than ``LONGEST_WORD`` characters are left out. Memory grows with
    the number of distinct words only.

    Args:
        sources: text, gzip and Parquet files, folders (every file below), patterns, fsspec URLs,
            or ``"-"`` for standard input; or what ``find_sources`` made of them.
        options: see :class:`CorpusOptions`.
        progress: called with (bytes read, bytes in total or None).
        check: called with the number of distinct words after every piece of text; what it raises
            ends the counting.

    Returns:
        The words, sorted by (-count, word).

    Raises:
        CorpusError: if a source is missing or unreadable, or no word is left.
    """
    options = options or CorpusOptions()
    given = [item for item in sources if not isinstance(item, TextSource)]
    found = [item for item in sources if isinstance(item, TextSource)]
    found += find_sources(given) if given or not found else []
    report = adding(progress, total_size(found))
    counter: Counter[str] = Counter()
    for source in found:
        text = read_text(source, options.encoding, report)
        for words in _words(without_long_words(text, source.name)):
            counter.update(words)
            if check is not None:
                check(len(counter))
    names = ", ".join(source.name for source in found[:3]) + (", ..." if len(found) > 3 else "")
    return _finish(counter, options, names)


def read_word_list(path: str | Path, options: CorpusOptions | None = None) -> WordCounts:
    """Read a list of words: one a line, optionally with a tab and a count.

    A word that is listed twice gets the sum of its counts; without counts every line counts one,
    and ``max_words`` keeps the words that come first in the file.

    Args:
        path: a text or gzip file, or ``"-"``.
        options: see :class:`CorpusOptions`.

    Returns:
        The words, sorted by (-count, word).

    Raises:
        CorpusError: if the file is missing or unreadable, a line holds two words or a count that
            is no positive number, or no word is left.
    """
    options = options or CorpusOptions()
    found = find_sources([path])
    if len(found) > 1:
        raise CorpusError(
            f"the list of words {path} is {len(found)} files",
            expected="one file",
            remedy="name it, or pass running text as a corpus instead of a word list",
        )
    source = found[0]
    counter: Counter[str] = Counter()
    counted, too_long = False, 0
    for number, line in enumerate(split_lines(read_text(source, options.encoding, ignore)), 1):
        if line is not None and not line.strip():
            continue
        parsed = None if line is None else _parse_line(line, f"{source.name}, line {number}")
        if parsed is None or len(parsed[0]) > LONGEST_WORD:
            too_long += 1
            continue
        word, count = parsed
        counted |= count is not None
        counter[word] += 1 if count is None else count
    report_long_words(too_long, source.name)
    return _finish(counter, options, source.name, keep_order=not counted)


def read_texts(path: str | Path, encoding: str = "utf-8") -> list[str]:
    """Read texts, one a line; lines without a word are left out.

    Args:
        path: a text or gzip file, a folder of them, or ``"-"``.
        encoding: the codec of every file.

    Raises:
        CorpusError: if it is missing or unreadable, or holds no text.
    """
    options = CorpusOptions(encoding=encoding)
    texts: list[str] = []
    for source in find_sources([path]):
        lines = split_lines(read_text(source, options.encoding, ignore))
        for number, line in enumerate(lines, 1):
            if line is None:
                raise CorpusError(
                    f"{source.name}, line {number} has more than {LONGEST_LINE:,} characters",
                    expected="one text a line",
                )
            if line.strip():
                texts.append(line)
    if not texts:
        raise CorpusError(f"{path} holds no text", expected="at least one line with a word")
    return texts


def _finish(
    counter: Counter[str], options: CorpusOptions, names: str, *, keep_order: bool = False
) -> WordCounts:
    """Apply the options to raw counts and sort."""
    if not counter:
        raise CorpusError(
            f"the corpus is empty: no word in {names}", expected="text with at least one word"
        )
    if options.lowercase:
        # Per word, not per chunk: where a capital sigma stands in its word decides its lower case.
        lowered: Counter[str] = Counter()
        for word, count in counter.items():
            lowered[word.lower()] += count
        counter = lowered
    kept = [(word, count) for word, count in counter.items() if count >= options.min_count]
    if not kept:
        top = max(counter.values())
        raise CorpusError(
            f"no word of {names} occurs {options.min_count} times; the most frequent occurs {top}",
            expected="at least one word",
            remedy="lower min_count (--min-count)",
        )
    if keep_order:
        kept = kept[: options.max_words]
    kept.sort(key=lambda item: (-item[1], item[0]))
    kept = kept[: options.max_words]
    logger.info("%d of %d distinct words kept", len(kept), len(counter))
    words, counts = zip(*kept, strict=True)
    return WordCounts(words, np.array(counts, np.int64))


def _words(pieces: Iterator[str]) -> Iterator[list[str]]:
    """Split pieces of text at white space; a word across a border stays one word."""
    carry: list[str] = []  # a list: a word longer than many pieces is joined once, not each time
    for piece in pieces:
        words = piece.split()
        if len(words) == 1 and len(words[0]) == len(piece):  # no white space at all
            carry.append(piece)
            continue
        if carry:
            if not piece[0].isspace():
                carry.append(words.pop(0))
            yield ["".join(carry)]
            carry = []
        if words and not piece[-1].isspace():
            carry = [words.pop()]
        yield words
    if carry:
        yield ["".join(carry)]


def _parse_line(line: str, where: str) -> tuple[str, int | None]:
    """One line of a word list to (word, count or None)."""
    head, tab, tail = line.rstrip("\r").partition("\t")
    words = head.split()
    if len(words) != 1:
        raise CorpusError(
            f"{where}: {line.strip()[:80]!r}",
            expected="one word, optionally a tab and a count",
            remedy="pass running text as a corpus instead of a word list",
        )
    if not tab or not tail.strip():
        return words[0], None
    if not tail.strip().isdecimal() or int(tail) < 1:
        raise CorpusError(f"{where}: the count {tail.strip()[:40]!r}", expected="a positive number")
    return words[0], int(tail)
