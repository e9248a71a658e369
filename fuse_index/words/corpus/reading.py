"""Text in pieces from files, folders, URLs and standard input, in constant memory."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import IO, Any

from fuse_index.common.progress import Add
from fuse_index.errors import CorpusError
from fuse_index.words.corpus.remote import (
    PARQUET_MAGIC,
    PARQUET_SUFFIXES,
    is_url,
    open_url,
    read_parquet,
    urls_of,
)

STDIN = "-"
_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class TextSource:
    """One stream of text.

    Attributes:
        path: the file; None for a URL and for standard input.
        size: bytes to be read, where known.
        url: what fsspec opens instead of a path.
        start: where reading begins: bytes of a text, row groups of a Parquet file.
        stop: where it ends; None is the end of the file.
    """

    path: Path | None
    size: int | None
    url: str | None = None
    start: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.url or ("standard input" if self.path is None else str(self.path))

    @property
    def again(self) -> bool:
        """Whether it can be read more than once: not so standard input and pipes."""
        return self.url is not None or (self.path is not None and self.path.is_file())

    def open(self) -> AbstractContextManager[IO[bytes]]:
        """Open the whole of it for reading bytes.

        Raises:
            OSError: it cannot be opened.
            CorpusError: the same of a URL.
        """
        if self.url is not None:
            return open_url(self.url)
        if self.path is None:
            return nullcontext(sys.stdin.buffer)
        return self.path.open("rb", buffering=0)

    @property
    def is_parquet(self) -> bool:
        """Whether it is a Parquet file: by its first bytes, and a URL by its name."""
        if self.url is not None:
            return self.url.endswith(PARQUET_SUFFIXES)
        if not self.again:
            return False
        try:
            with self.open() as stream:
                return stream.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
        except OSError:  # raised when it is read
            return False


def find_sources(given: Sequence[str | Path]) -> list[TextSource]:
    """Resolve files, folders, patterns, URLs and ``"-"`` to streams, in a reproducible order.

    A folder stands for every file below it, and a pattern (``*``, ``?``, ``[``) for what matches
    it, sorted by path; names that begin with a dot are passed over.

    Args:
        given: paths and patterns of files and folders, or fsspec URLs; ``"-"`` is standard input.

    Returns:
        One source per stream, in the order given.

    Raises:
        CorpusError: if nothing was given, a path does not exist, or a folder holds no file.
    """
    if not given:
        raise CorpusError("no corpus", expected="files, folders, or - for standard input")
    found: list[TextSource] = []
    for item in given:
        if str(item) == STDIN:
            found.append(TextSource(None, None))
            continue
        if is_url(str(item)):
            found += [TextSource(None, size, url) for url, size in urls_of(str(item))]
            continue
        path = Path(item)
        if path.exists():
            found += _sources_at(path)
        elif matches := [match for match in sorted(glob(str(item), recursive=True)) if match]:
            found += [source for match in matches for source in _sources_at(Path(match))]
        else:
            raise CorpusError(
                f"corpus {path} does not exist",
                expected="a text file, a gzip file, a folder, or - for standard input",
                remedy="check the path",
            )
    return found


def total_size(sources: Sequence[TextSource]) -> int | None:
    """Return the bytes of all sources, ``None`` where one does not say."""
    sizes = [source.size for source in sources]
    return None if None in sizes else sum(filter(None, sizes))


def _sources_at(path: Path) -> list[TextSource]:
    """The files of a path that exists."""
    if not path.is_dir():
        return [TextSource(path, path.stat().st_size if path.is_file() else None)]
    files = _files_below(path)
    if not files:
        raise CorpusError(f"folder {path} holds no file", expected="text or gzip files")
    return [TextSource(file, file.stat().st_size) for file in files]


def read_text(source: TextSource, encoding: str, progress: Add) -> Iterator[str]:
    """Yield the text of one source in pieces of about a megabyte.

    Gzip is recognized by its first two bytes, whatever the name; a byte-order mark at the start is
    dropped. Of a Parquet file the column of text is read, one row a line.

    Args:
        source: what to read.
        encoding: any codec Python knows; Parquet has its own.
        progress: called with the bytes taken from the disk since the last call.

    Yields:
        Pieces of text, in order; words may be split between two of them.

    Raises:
        CorpusError: if the file cannot be read, is a damaged gzip file, or is not in ``encoding``;
            the message has the offset of the first wrong byte.
    """
    if source.is_parquet:
        groups = (source.start, source.stop)
        yield from read_parquet(source.open, source.name, groups, source.size, progress)
        return
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    consumed, first = source.start, source.start == 0
    for chunk in _chunks(source, progress):
        pending = len(decoder.getstate()[0])
        text = _decode(decoder, chunk, source, encoding, consumed - pending, final=not chunk)
        consumed += len(chunk)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if text:
            yield text


def _decode(
    decoder: codecs.IncrementalDecoder,
    chunk: bytes,
    source: TextSource,
    encoding: str,
    start: int,
    *,
    final: bool,
) -> str:
    """Decode the next chunk; ``start`` is the stream offset of the decoder's pending bytes."""
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        offset = start + error.start
        byte = error.object[error.start] if error.start < len(error.object) else 0
        where = f"{source.name} is not {encoding}: byte 0x{byte:02x} at byte offset {offset}"
        if error.reason == "unexpected end of data":
            where += " begins a character that is cut off"
        raise CorpusError(
            where,
            expected=f"{encoding} text (offsets count the uncompressed bytes)",
            remedy="name the file's encoding with --encoding, for example --encoding latin-1",
        ) from error
    except UnicodeError as error:  # utf-16 without a byte-order mark, idna and the like
        raise CorpusError(
            f"{source.name} is not {encoding} near byte offset {start}: {error}",
            expected=f"{encoding} text",
            remedy="name the file's encoding with --encoding",
        ) from error


def _chunks(source: TextSource, progress: Add) -> Iterator[bytes]:
    """Yield uncompressed bytes, then one empty chunk that marks the end."""
    try:
        with source.open() as raw:
            if source.start:
                raw.seek(source.start)
            left = None if source.stop is None else source.stop - source.start
            stream = io.BufferedReader(_CountedStream(raw, progress, left), _BUFFER_BYTES)
            packed = source.start == 0 and stream.peek(2)[:2] == _GZIP_MAGIC
            plain = gzip.GzipFile(fileobj=stream) if packed else stream
            while chunk := plain.read(_CHUNK_BYTES):
                yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(
            f"{source.name} is a damaged gzip file: {error}",
            expected="a complete gzip file",
            remedy="download or compress it again",
        ) from error
    except OSError as error:
        raise CorpusError(
            f"{source.name} cannot be read: {error.strerror or error}",
            remedy="check that it is a readable file",
        ) from error
    yield b""


class _CountedStream(io.RawIOBase):
    """A stream that reports how many bytes were taken from the one below it.

    It ends after ``left`` bytes where that is given.
    """

    def __init__(self, stream: IO[bytes], progress: Add, left: int | None = None) -> None:
        self._stream = stream
        self._progress = progress
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer) if self._left is None else min(len(buffer), self._left)
        data = self._stream.read(size)
        buffer[: len(data)] = data
        if self._left is not None:
            self._left -= len(data)
        self._progress(len(data))
        return len(data)


def _files_below(folder: Path) -> list[Path]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.is_file())
