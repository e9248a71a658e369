"""Text in pieces from files, folders, URLs and standard input, in constant memory."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import IO, Any

from fuse_index.common.folders import FolderFiles, list_files, tell_passed_over
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
_STDIN_PATHS = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
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


def find_sources(given: Sequence[str | Path], *, nested: bool = True) -> list[TextSource]:
    """Resolve files, folders, patterns, URLs and ``"-"`` to streams, in a reproducible order.

    A folder stands for the files in it by the rule of :mod:`fuse_index.common.folders`, and a
    pattern (``*``, ``?``, ``[``) for what matches it, each file once, sorted by path.

    Args:
        given: paths and patterns of files and folders, or fsspec URLs; ``"-"`` is standard input.
        nested: whether folders in folders are entered.

    Returns:
        One source per stream, in the order given.

    Raises:
        CorpusError: if nothing was given, a path does not exist or is no regular file, or a folder
            holds no file.
    """
    if not given:
        raise CorpusError("no corpus", expected="files, folders, or - for standard input")
    found: list[TextSource] = []
    for item in given:
        if str(item) in (STDIN, *_STDIN_PATHS):
            found.append(TextSource(None, None))
            continue
        if is_url(str(item)):
            urls = urls_of(str(item), nested=nested)
            found += [TextSource(None, size, url) for url, size in urls]
            continue
        path = Path(item)
        if path.exists():
            found += _sources_at(path, nested)
        elif matches := [match for match in sorted(glob(str(item), recursive=True)) if match]:
            found += _sources_matching(str(item), matches, nested)
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


def _sources_at(path: Path, nested: bool) -> list[TextSource]:
    """The files of a path that exists."""
    if path.is_file():
        return [_source_of(path)]
    if not path.is_dir():  # a pipe or a device, which may never end, or never begin
        raise CorpusError(
            f"corpus {path} is not a regular file",
            expected="a text file, a gzip file, a folder, or - for standard input",
            remedy="write the text to a file, or pipe it into - as standard input",
        )
    found = _listed(path, nested)
    if not found.files:
        rest = f" ({found})" if found.passed_over else ""
        raise CorpusError(f"folder {path} holds no file{rest}", expected="text or gzip files")
    return [_source_of(file) for file in found.files]


def _sources_matching(pattern: str, matches: Sequence[str], nested: bool) -> list[TextSource]:
    """The files of a pattern, which may match a folder and the files in it: each once."""
    paths = [Path(match) for match in matches]
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if path.is_file()]
    files += [file for folder in folders for file in _listed(folder, nested).files]
    found = {file.resolve(): file for file in files}
    if not found:
        raise CorpusError(f"corpus {pattern} matches no file", expected="text or gzip files")
    return [_source_of(file) for file in sorted(found.values())]


def _listed(folder: Path, nested: bool) -> FolderFiles:
    try:
        found = list_files(folder, nested=nested)
    except OSError as error:
        raise CorpusError(f"folder {folder} cannot be listed: {error.strerror}") from error
    if found.files:
        tell_passed_over(folder, found)
    return found


def _source_of(file: Path) -> TextSource:
    return TextSource(file, file.stat().st_size)


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
