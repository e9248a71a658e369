"""The memory of a build: predicted, measured, and limited."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

from fuse_index.common.bounds import MAX_COUNT
from fuse_index.errors import OptionError
from fuse_index.words.corpus.counting import DEFAULT_MEMORY
from fuse_index.words.table import SHARD_WORDS

ENGINE_OVERHEAD = 256 << 20
"""What the counting engine was measured to take beside the memory it is limited to."""
ENGINE_LEAST = 128 << 20
"""With less the engine spills all the time."""

_PROCESS = 680e6  # the libraries, loaded, and the tokenizers
_OBJECTS = 900  # bytes a word takes while its shard is tokenized
_HELD = 6.2  # bytes of a word and a column of its embeddings, in a build that is one shard
_TABLES = 1.5  # times the embedding tables, in a build that is one shard
_COUNTED = 40  # times a corpus, counted in memory, if every word of it is another
_SORTED = (190, 300)  # bytes a word takes when it is sorted at the end; lower-cased before
_LISTED_BYTES = 20  # for a byte of a list of words
_INDEXED_BYTES = 250  # of a word, its count and its tokens as Python objects

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BLOCK = 4 << 20

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def peak_bytes(
    words: float,
    widths: tuple[int, int],
    vocabularies: tuple[int, int],
    *,
    fit: float,
    counted: bool,
) -> float:
    """Predict the largest resident set of a build: it does not grow with the words beyond a shard.

    Resident sets of builds of 11,000 to 192,000 words, widths 256 and 384, were within 18 %.

    Args:
        words: that are tokenized.
        widths: of source and target embeddings.
        vocabularies: rows of the embedding tables.
        fit: bytes of the largest group's sums.
        counted: whether the counting engine is used.
    """
    tables = 4.0 * sum(rows * width for rows, width in zip(vocabularies, widths, strict=True))
    stages = [
        tables + fit,
        tables + _OBJECTS * min(words, SHARD_WORDS),
        float(DEFAULT_MEMORY) if counted else 0.0,
    ]
    if words <= SHARD_WORDS:  # more words are freed at once, see return_large_blocks
        stages.append(_TABLES * tables + _HELD * sum(widths) * words)
    return _PROCESS + max(stages)


def listed_bytes(size: int) -> int:
    """Return the memory that a list of words takes, from the size of its file."""
    return _LISTED_BYTES * size


def indexed_bytes(words: int, width: int) -> int:
    """Return the memory that a word index takes while it is built, with ``width`` columns."""
    return words * (4 * width + _INDEXED_BYTES)


def parse_bytes(text: str, option: str = "--max-memory") -> int:
    """Read ``2G``, ``500MB``, ``1.5GiB`` or a number of bytes.

    Raises:
        OptionError: it is none of these.
    """
    lower = text.strip().lower().removesuffix("b")
    unit = lower.lstrip("0123456789.").strip()
    number = lower.removesuffix(unit).strip()
    scale = {**_UNITS, **_BINARY}.get(unit)
    try:
        size = int(float(number) * (scale or 0))
    except (ValueError, OverflowError):
        size = 0
    if not 1 <= size <= MAX_COUNT:
        raise OptionError(f"{option} {text}", expected="bytes such as 2G, 500M or 1.5GiB")
    return size


def resident_bytes() -> int:
    """Return the resident set of this process, 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return _peak_bytes()
    import resource  # noqa: PLC0415 - not on every system

    return pages * resource.getpagesize()


def _peak_bytes() -> int:
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


class MemoryLimit:
    """Keeps a build below a number of bytes.

    Every stage takes a fixed amount of memory, whatever the number of words, so what is left is to
    give the counting engine its share, and to refuse what cannot fit before it is tried.

    Args:
        limit: bytes of resident memory; ``None`` sets none.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        if limit is not None:
            return_large_blocks()

    def engine(self) -> int:
        """Return the bytes that the counting engine may use.

        Raises:
            OptionError: the rest of the process leaves it too little.
        """
        if self.limit is None:
            return DEFAULT_MEMORY
        used = resident_bytes()
        left = self.limit - used - ENGINE_OVERHEAD
        if left < ENGINE_LEAST:
            least = used + ENGINE_OVERHEAD + ENGINE_LEAST
            raise _too_low(self.limit, least, "counting words")
        return min(left, DEFAULT_MEMORY)

    def prefers_engine(self, size: int) -> bool:
        """Whether a corpus of so many bytes may be too much for memory, but not for the engine."""
        if self.limit is None:
            return False
        left = self.limit - resident_bytes()
        return _COUNTED * size > left >= ENGINE_OVERHEAD + ENGINE_LEAST

    def require_sorted(self, words: int, *, lowercase: bool, remedy: str) -> None:
        """Refuse to go on counting in memory where the words could not be sorted any more.

        Args:
            words: distinct ones so far.
            lowercase: whether they will be lower-cased.
            remedy: what to do beside raising the limit.

        Raises:
            OptionError: what is resident, and the sorting, exceed the limit.
        """
        least = resident_bytes() + _SORTED[lowercase] * words
        if self.limit is not None and least > self.limit:
            raise _too_low(self.limit, least, f"counting {words:,} words and more", remedy)

    def require_tokenized(self, words: int) -> None:
        """Refuse to tokenize words that do not fit beside what is resident.

        Raises:
            OptionError: naming what that needs.
        """
        self.require(_OBJECTS * min(words, SHARD_WORDS), "tokenizing words")

    def require(self, more: int, what: str) -> None:
        """Refuse a stage that takes ``more`` bytes than are resident now, if they are too many.

        Raises:
            OptionError: naming the stage and what it needs.
        """
        if self.limit is not None and resident_bytes() + more > self.limit:
            raise _too_low(self.limit, resident_bytes() + more, what)


def return_large_blocks() -> None:
    """Let glibc return every large block at once.

    By itself it raises the size from which it does so to that of the largest block so far, and the
    blocks below stay in a heap that fragments: fits of a million words were measured to take twice
    the memory, of ten million fifteen times.
    """
    if sys.platform.startswith("linux"):
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def _too_low(limit: int, least: int, what: str, remedy: str = "") -> OptionError:
    return OptionError(
        f"--max-memory {limit / 1e6:,.0f}M",
        expected=f"at least {least / 1e6:,.0f}M for {what}",
        remedy=f"{remedy}raise it, or leave it out",
    )
