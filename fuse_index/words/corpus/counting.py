"""Words of a corpus of any size, counted in a fixed amount of memory by DuckDB.

Measured against the in-memory counter on the same two cores, DuckDB is five times as fast
(docs/scale.md), so it counts whatever is larger than :data:`SMALL_BYTES`; what it cannot
hold it spills to disk. It is given text in which everything that :meth:`str.split` takes for white
space is one ASCII space, so the words are cut where
:func:`~fuse_index.words.corpus.words.count_words` cuts them; the result is the same: words,
counts, order and ties.
"""

from __future__ import annotations

import codecs
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.common.files import replacing
from fuse_index.common.progress import Add, ignore
from fuse_index.errors import CorpusError, MissingDependencyError, StorageError
from fuse_index.words.corpus.lengths import without_long_words
from fuse_index.words.corpus.reading import TextSource, read_text
from fuse_index.words.corpus.stored import StoredArray, Texts
from fuse_index.words.corpus.words import CorpusOptions, WordCounts

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

SMALL_BYTES = 64 << 20
"""A corpus of at most so many bytes is counted faster in memory than an engine is started."""
DEFAULT_MEMORY = 1 << 30
"""Bytes that the engine may use by default."""

_ASCII_SPACES = b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f"
_TO_SPACE = bytes.maketrans(_ASCII_SPACES, b" " * len(_ASCII_SPACES))
_WIDE_SPACES = tuple(chr(code) for code in range(0x80, 0x3001) if chr(code).isspace())
_COUNTS, _OFFSETS, _BYTES = "words.counts", "words.offsets", "words.bytes"
_ROW_BYTES = 1 << 13
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 1 << 17
# Codecs that decode to lone surrogates, which an engine's strings cannot hold.
_SURROGATES = ("utf_7", "unicode_escape", "raw_unicode_escape")


@dataclass(frozen=True)
class Engine:
    """How much of the machine DuckDB may use.

    Attributes:
        folder: where it spills to, an existing folder.
        memory: bytes.
        threads: None stands for the cores this process may use.
    """

    folder: Path
    memory: int = DEFAULT_MEMORY
    threads: int | None = None


def has_engine() -> bool:
    """Whether DuckDB and pyarrow are installed (extra ``scale``)."""
    try:
        import duckdb  # noqa: F401, PLC0415 - an extra
        import pyarrow  # noqa: F401, PLC0415 - an extra
    except ImportError:
        return False
    return True


def can_stream(encoding: str) -> bool:
    """Whether text in an encoding can be counted by the engine."""
    return codecs.lookup(encoding).name.replace("-", "_") not in _SURROGATES


def count_shard(
    shard: TextSource,
    encoding: str,
    output: Path,
    engine: Engine,
    progress: Add = ignore,
) -> None:
    """Count the words of one shard into a Parquet file: word ``w`` and count ``n``.

    Args:
        shard: what to read.
        encoding: of the text.
        output: the file; it appears complete or not at all.
        engine: see :class:`Engine`.
        progress: called with the bytes read since the last call.

    Raises:
        CorpusError: the shard cannot be read; the message names it.
        StorageError: the counts cannot be written.
        MissingDependencyError: the engine is not installed.
    """
    failure: list[BaseException] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            text = read_text(shard, encoding, progress)
            yield from _text_batches(without_long_words(text, shard.name))
        except BaseException as error:  # the engine would wrap it into its own
            failure.append(error)
            raise

    with _connection(engine) as connection:
        import pyarrow as pa  # noqa: PLC0415 - an extra

        schema = pa.schema([("t", pa.string())])
        connection.register("texts", pa.RecordBatchReader.from_batches(schema, batches()))
        inner = "SELECT unnest(string_split(t, ' ')) AS w FROM texts"
        query = f"SELECT w, count(*) AS n FROM ({inner}) WHERE w <> '' GROUP BY w"
        try:
            _copy(connection, query, output)
        except Exception:
            if failure:
                raise failure[0] from None
            raise


def merge_counts(
    counts: Sequence[Path], options: CorpusOptions, output: Path, engine: Engine, names: str
) -> WordCounts:
    """Add the counts of all shards up, apply the options and sort.

    Args:
        counts: files of :func:`count_shard`; their order does not matter.
        options: see :class:`~fuse_index.words.corpus.words.CorpusOptions`.
        output: the folder for the words.
        engine: see :class:`Engine`.
        names: of the sources, for messages.

    Returns:
        The words, sorted by (-count, word).

    Raises:
        CorpusError: no word is left.
        StorageError: the disk is full.
    """
    merged = engine.folder / "merged.parquet"
    with _connection(engine) as connection:
        if len(counts) == 1 and not options.lowercase:
            merged = counts[0]
        else:
            _sum(connection, counts, merged)
        if options.lowercase:
            lowered = engine.folder / "lowered.parquet"
            _lower(connection, merged, lowered)
            _sum(connection, [lowered], merged)
            lowered.unlink()
        source = _files([merged])
        distinct, top = connection.execute(f"SELECT count(*), max(n) FROM {source}").fetchall()[0]
        if not distinct:
            raise CorpusError(
                f"the corpus is empty: no word in {names}", expected="text with at least one word"
            )
        if top < options.min_count:
            raise CorpusError(
                f"no word of {names} occurs {options.min_count} times; the most frequent occurs "
                f"{top}",
                expected="at least one word",
                remedy="lower min_count (--min-count)",
            )
        limit = "" if options.max_words is None else f" LIMIT {options.max_words}"
        query = f"SELECT w, n FROM {source} WHERE n >= {options.min_count} ORDER BY n DESC, w"
        found = store_words(output, _columns(connection, query + limit))
    if merged not in counts:
        merged.unlink()
    logger.info("%d of %d distinct words kept", len(found), distinct)
    return found


def store_words(
    folder: Path,
    batches: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]],
) -> WordCounts:
    """Write words and their counts to files, a batch at a time.

    Args:
        folder: for the files; it holds words once all of them are written.
        batches: bytes of some words, their offsets from 0 on ``(n + 1,)``, their counts ``(n,)``.
    """
    with ExitStack() as stack:
        # Closed in the reverse order: the counts appear last.
        counts_file, offsets_file, bytes_file = (
            stack.enter_context(stack.enter_context(replacing(folder / name)).open("wb"))
            for name in (_COUNTS, _OFFSETS, _BYTES)
        )
        size = 0
        offsets_file.write(np.zeros(1, "<i8").tobytes())
        for text, offsets, counts in batches:
            bytes_file.write(text.data)
            offsets_file.write((offsets[1:] + size).astype("<i8").tobytes())
            counts_file.write(counts.astype("<i8").tobytes())
            size += int(offsets[-1])
    words = open_words(folder)
    assert words is not None
    return words


def open_words(folder: Path) -> WordCounts | None:
    """Return what :func:`store_words` wrote; ``None`` where it has not finished."""
    if not (folder / _COUNTS).is_file():
        return None
    kinds = ((_BYTES, "u1"), (_OFFSETS, "<i8"), (_COUNTS, "<i8"))
    data, offsets, counts = (StoredArray.open(folder / name, kind) for name, kind in kinds)
    return WordCounts(Texts(data, offsets), counts)


def _text_batches(pieces: Iterator[str]) -> Iterator[pa.RecordBatch]:
    """Text as rows of some kilobytes, cut and separated by single ASCII spaces."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        raw = with_plain_spaces(piece)
        held.append(raw)
        size += len(raw)
        if size < _BATCH_BYTES or b" " not in raw:  # a word longer than a batch stays whole
            continue
        data = b"".join(held)
        cut = data.rfind(b" ")
        held = [data[cut:]]
        size = len(held[0])
        if cut:
            yield _rows(data[:cut])
    if data := b"".join(held):
        yield _rows(data)


def with_plain_spaces(text: str) -> bytes:
    """UTF-8 of a text with an ASCII space for every character that is white space to Python."""
    if not text.isascii():
        for space in _WIDE_SPACES:
            if space in text:  # ten times as fast as to replace what is not there
                text = text.replace(space, " ")
    return text.encode().translate(_TO_SPACE)


def _rows(data: bytes) -> pa.RecordBatch:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    cuts = [0]
    while cuts[-1] < len(data):
        found = data.find(b" ", cuts[-1] + _ROW_BYTES)
        cuts.append(len(data) if found < 0 else found)
    buffers = pa.py_buffer(np.array(cuts, np.int32)), pa.py_buffer(data)
    array = pa.StringArray.from_buffers(len(cuts) - 1, *buffers)
    return pa.RecordBatch.from_arrays([array], ["t"])


def _sum(connection: Any, counts: Sequence[Path], output: Path) -> None:
    source = _files(counts)
    _copy(connection, f"SELECT w, sum(n)::BIGINT AS n FROM {source} GROUP BY w", output)


def _lower(connection: Any, merged: Path, output: Path) -> None:
    """Lower-case whole words with Python, which handles the final sigma."""
    import pyarrow as pa  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

    schema = pa.schema([("w", pa.string()), ("n", pa.int64())])
    with pq.ParquetWriter(output, schema) as writer:
        for batch in _batches(connection, f"SELECT w, n FROM {_files([merged])}"):
            words = pa.array([word.lower() for word in batch.column(0).to_pylist()], pa.string())
            writer.write_batch(pa.record_batch([words, batch.column(1)], schema=schema))


def _columns(
    connection: Any, query: str
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Yield bytes, offsets and counts of words, batch by batch."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    for batch in _batches(connection, query):
        words = batch.column(0).cast(pa.large_string())
        _, bounds, data = words.buffers()
        offsets = np.frombuffer(bounds, np.int64)[words.offset : words.offset + len(words) + 1]
        text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        yield text[offsets[0] : offsets[-1]], offsets - offsets[0], batch.column(1).to_numpy()


def _batches(connection: Any, query: str) -> Iterator[pa.RecordBatch]:
    yield from connection.sql(query).to_arrow_reader(_BATCH_ROWS)


def _files(paths: Sequence[Path]) -> str:
    listed = ", ".join(_quoted(str(path)) for path in paths)
    return f"read_parquet([{listed}])"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _copy(connection: Any, query: str, output: Path) -> None:
    with replacing(output) as part:
        connection.execute(f"COPY ({query}) TO {_quoted(str(part))} (FORMAT parquet)").fetchall()


@contextmanager
def _connection(engine: Engine) -> Iterator[Any]:
    """Open a DuckDB that keeps to its memory and spills into the engine's folder."""
    try:
        import duckdb  # noqa: PLC0415 - an extra
        import pyarrow  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            "counting a corpus outside of the memory needs duckdb and pyarrow",
            remedy="pip install 'fuse-index[scale]'",
        ) from error
    threads = engine.threads or _cores()
    spill = engine.folder / "spill"
    connection = duckdb.connect(
        config={
            "threads": threads,
            "memory_limit": f"{max(engine.memory, 64 << 20) >> 10}KiB",
            "temp_directory": str(spill),
            "preserve_insertion_order": False,
        }
    )
    try:
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise StorageError(
            f"counting words did not fit into {engine.memory / 1e6:,.0f} MB of memory and the "
            f"disk of {engine.folder}",
            remedy="raise --max-memory, or free space",
        ) from error
    except duckdb.IOException as error:
        raise StorageError(
            f"{engine.folder} cannot be written ({' '.join(str(error).split())[:200]})",
            remedy="free space or choose another folder with --work-dir",
        ) from error
    finally:
        connection.close()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
