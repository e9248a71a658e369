"""Text in pieces from files, gzip files, folders and standard input, in constant memory."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fuse_index.errors import CorpusError

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes read so far and their total, None where the total is not known."""

STDIN = "-"
_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Source:
    """One stream of text: a file, or standard input where ``path`` is None."""

    path: Path | None
    size: int | None

    @property
    def name(self) -> str:
        """What messages call it."""
        return "standard input" if self.path is None else str(self.path)


def find_sources(given: Sequence[str | Path]) -> list[Source]:
    """Resolve files, folders and ``"-"`` to streams, in a reproducible order.

    A folder stands for every file below it, sorted by path; names that begin with a dot are passed
    over.

    Args:
        given: paths of files and folders; ``"-"`` is standard input.

    Returns:
        One source per stream, in the order given.

    Raises:
        CorpusError: if nothing was given, a path does not exist, or a folder holds no file.
    """
    if not given:
        raise CorpusError("no corpus", expected="files, folders, or - for standard input")
    found: list[Source] = []
    for item in given:
        if str(item) == STDIN:
            found.append(Source(None, None))
            continue
        path = Path(item)
        if path.is_dir():
            files = _files_below(path)
            if not files:
                raise CorpusError(f"folder {path} holds no file", expected="text or gzip files")
            found.extend(Source(file, file.stat().st_size) for file in files)
        elif path.exists():
            found.append(Source(path, path.stat().st_size if path.is_file() else None))
        else:
            raise CorpusError(
                f"corpus {path} does not exist",
                expected="a text file, a gzip file, a folder, or - for standard input",
                remedy="check the path",
            )
    return found


def read_text(source: Source, encoding: str, progress: Callable[[int], None]) -> Iterator[str]:
    """Yield the text of one source in pieces of about a megabyte.

    Gzip is recognized by its first two bytes, whatever the name; a byte-order mark at the start is
    dropped.

    Args:
        source: what to read.
        encoding: any codec Python knows.
        progress: called with the bytes taken from the disk since the last call.

    Yields:
        Pieces of text, in order; words may be split between two of them.

    Raises:
        CorpusError: if the file cannot be read, is a damaged gzip file, or is not in ``encoding``;
            the message has the offset of the first wrong byte.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    consumed, first = 0, True
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
    source: Source,
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


def _chunks(source: Source, progress: Callable[[int], None]) -> Iterator[bytes]:
    """Yield uncompressed bytes, then one empty chunk that marks the end."""
    try:
        with _open(source) as raw:
            stream = io.BufferedReader(_Counted(raw, progress), _BUFFER_BYTES)
            packed = stream.peek(2)[:2] == _GZIP_MAGIC
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


class _Counted(io.RawIOBase):
    """A stream that reports how many bytes were taken from the one below it."""

    def __init__(self, stream: IO[bytes], progress: Callable[[int], None]) -> None:
        self._stream = stream
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._progress(len(data))
        return len(data)


def _open(source: Source) -> AbstractContextManager[IO[bytes]]:
    if source.path is None:
        return nullcontext(sys.stdin.buffer)
    return source.path.open("rb", buffering=0)


def _files_below(folder: Path) -> list[Path]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.is_file())
