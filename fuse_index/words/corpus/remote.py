"""Text from fsspec URLs and from Parquet files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any

from fuse_index.common.progress import Add
from fuse_index.errors import CorpusError, MissingDependencyError

PARQUET_MAGIC = b"PAR1"
PARQUET_SUFFIXES = (".parquet", ".pq")
TEXT_COLUMN = "text"
"""The column that is read where a Parquet file has several of strings."""

_ROWS = 4096
_BATCH_BYTES = 4 << 20
_PIECE = 1 << 20
_URL = re.compile(r"[a-z][a-z0-9+.-]*(::[^:]*)*://", re.IGNORECASE)


def is_url(given: str) -> bool:
    """Whether a name is a URL that fsspec opens, such as ``s3://bucket/texts``."""
    return _URL.match(given) is not None


def urls_of(given: str, *, nested: bool = True) -> list[tuple[str, int | None]]:
    """Resolve a URL of a file, a folder or a pattern to files.

    Args:
        given: the URL.
        nested: whether folders in a folder are entered. Hidden files and folders never are.

    Returns:
        URLs with their sizes in bytes (None where the store does not say), sorted by path.

    Raises:
        CorpusError: nothing is there, or the store refuses.
        MissingDependencyError: fsspec, or the package for this kind of URL, is not installed.
    """
    with _refusals(given):
        system, path = _fsspec().url_to_fs(given)
        if any(mark in path for mark in "*?["):
            paths = [item for item in system.glob(path) if system.isfile(item)]
        elif system.isdir(path):
            found = system.find(path, maxdepth=None if nested else 1)
            top = len(path.rstrip("/"))
            paths = [item for item in found if "/." not in item[top:]]
        else:
            paths = [path]
        kept = sorted(item for item in paths if not item.rsplit("/", 1)[-1].startswith("."))
        sizes = [system.info(item).get("size") for item in kept]
        if not kept:
            raise CorpusError(f"corpus {given} holds no file", expected="text, gzip or Parquet")
        return [
            (system.unstrip_protocol(item), size) for item, size in zip(kept, sizes, strict=True)
        ]


def open_url(url: str) -> AbstractContextManager[IO[bytes]]:
    """Open a URL for reading bytes.

    Raises:
        CorpusError: it cannot be opened.
    """
    with _refusals(url):
        opened: AbstractContextManager[IO[bytes]] = _fsspec().open(url, "rb").open()
        return opened


def row_groups(
    open_: Callable[[], AbstractContextManager[IO[bytes]]], name: str
) -> list[tuple[int, int]]:
    """Return rows and bytes of every row group of a Parquet file.

    Raises:
        CorpusError: it cannot be read.
    """
    with _refusals(name), open_() as stream:
        found = _parquet().ParquetFile(stream).metadata
        groups = [found.row_group(i) for i in range(found.num_row_groups)]
        return [(group.num_rows, group.total_byte_size) for group in groups]


def read_parquet(
    open_: Callable[[], AbstractContextManager[IO[bytes]]],
    name: str,
    groups: tuple[int, int | None],
    size: int | None,
    progress: Add,
) -> Iterator[str]:
    """Yield the text of a Parquet file's column of strings, every row ended by a line feed.

    Args:
        open_: opens the file.
        name: what messages call it.
        groups: the first row group to read, and the one to stop before (None: the end).
        size: bytes that the progress adds up to.
        progress: called with the bytes read since the last call, by the share of the rows.

    Raises:
        CorpusError: it cannot be read, or no column or more than one could be meant.
    """
    with _refusals(name), open_() as stream:
        file = _parquet().ParquetFile(stream)
        column = text_column(file.schema_arrow, name)
        numbers = list(range(*slice(*groups).indices(file.metadata.num_row_groups)))
        total = sum(file.metadata.row_group(i).num_rows for i in numbers)
        done, reported = 0, 0
        count = _rows_at_once(file.metadata, numbers)
        batches = file.iter_batches(count, row_groups=numbers, columns=[column], use_threads=False)
        for batch in batches:
            text = "\n".join([*(row for row in batch.column(0).to_pylist() if row), ""])
            done += batch.num_rows
            now = (size or 0) * done // max(total, 1)
            progress(now - reported)
            reported = now
            for start in range(0, len(text) if len(text) > 1 else 0, _PIECE):
                yield text[start : start + _PIECE]


def _rows_at_once(metadata: Any, groups: list[int]) -> int:
    """Rows of a batch: fewer where rows are long, as whole books are."""
    found = [metadata.row_group(i) for i in groups]
    longest = max((g.total_byte_size / max(g.num_rows, 1) for g in found), default=0.0)
    return max(1, min(_ROWS, int(_BATCH_BYTES / max(longest, 1.0))))


def text_column(schema: Any, name: str) -> str:
    """Return the column of text: the only one of strings, or the one that is called ``text``.

    Raises:
        CorpusError: there is none, or there are several and none is called so.
    """
    import pyarrow as pa  # noqa: PLC0415 - only for Parquet

    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    found = [field.name for field in schema if any(test(field.type) for test in strings)]
    if TEXT_COLUMN in found:
        return TEXT_COLUMN
    if len(found) != 1:
        raise CorpusError(
            f"{name} has the columns of strings {found}",
            expected=f"one, or one that is called {TEXT_COLUMN!r}",
            remedy="rename the column that is meant",
        )
    return str(found[0])


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn what stores and readers raise into one clear line that names the shard."""
    try:
        yield
    except (CorpusError, MissingDependencyError):
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} cannot be opened: {error}",
            expected="the fsspec package for this kind of URL",
            remedy="pip install 'fuse-index[scale]' and the package named above",
        ) from error
    except FileNotFoundError as error:
        raise CorpusError(f"corpus {name} does not exist", remedy="check the address") from error
    except Exception as error:
        text = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise CorpusError(
            f"{name} cannot be read: {text or type(error).__name__}",
            expected="a text, gzip or Parquet file that may be read",
            remedy="check the file and its permissions",
        ) from error


def _fsspec() -> Any:
    try:
        import fsspec.core  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            "a corpus at a URL needs fsspec", remedy="pip install 'fuse-index[scale]'"
        ) from error
    return fsspec.core


def _parquet() -> Any:
    try:
        import pyarrow.parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            "a corpus in Parquet needs pyarrow", remedy="pip install 'fuse-index[scale]'"
        ) from error
    return pyarrow.parquet
