"""A limit of the memory of a build."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

from fuse_index.errors import OptionError
from fuse_index.words.corpus.counting import DEFAULT_MEMORY

ENGINE_OVERHEAD = 256 << 20
"""What the counting engine was measured to take beside the memory it is limited to."""
ENGINE_LEAST = 128 << 20
"""With less the engine spills all the time."""

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BLOCK = 4 << 20

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


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
    except ValueError:
        size = 0
    if size < 1:
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


def _too_low(limit: int, least: int, what: str) -> OptionError:
    return OptionError(
        f"--max-memory {limit / 1e6:,.0f}M",
        expected=f"at least {least / 1e6:,.0f}M for {what}",
        remedy="raise it, or leave it out",
    )
