"""``words.safetensors``: the word table and the group of every word as flat columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.layout import FALLBACK, MAX_TOKENS, parse_group
from fuse_index.bundle.manifest import Manifest
from fuse_index.bundle.tensorfile import (
    TensorEntry,
    TensorSource,
    TensorSpec,
    array_source,
    as_array,
    header_length,
    parse_header,
)
from fuse_index.errors import BundleError, FuseIndexError, OptionError
from fuse_index.words.corpus.stored import StoredTable
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

Column = NDArray[Any]

_DTYPES = {
    "words.bytes": "U8",
    "words.offsets": "I64",
    "words.counts": "I64",
    "words.groups": "I64",
    "source.offsets": "I64",
    "source.ids": "I64",
    "target.offsets": "I64",
    "target.ids": "I64",
}
_FETCH_AGAIN = "fetch or build the bundle again"


class Blocks(Protocol):
    """A table of words in parts: a :class:`~fuse_index.words.table.WordTable`, or a stored one."""

    def blocks(self) -> Iterator[WordTable]:
        """Yield the parts in their order."""

    def sizes(self) -> Mapping[tuple[int, int], int]:
        """How many words there are of ``p`` source and ``q`` target tokens, by ``(p, q)``."""

    def __len__(self) -> int: ...


def assign_groups(table: WordTable, names: Sequence[str]) -> NDArray[np.int64]:
    """Find the group of every word.

    Args:
        table: ``n`` words.
        names: group names, sorted as :func:`~fuse_index.bundle.layout.order_groups` does.

    Returns:
        (n,) int64, the position in ``names`` of the word's own group, or of ``fallback`` where its
        own is not among the names.

    Raises:
        OptionError: a word's group is not among the names and there is no fallback.
    """
    return _positions(table.source.lengths, table.target.lengths, names)


def _positions(p: Column, q: Column, names: Sequence[str]) -> NDArray[np.int64]:
    """The groups of words by their token counts ``p`` and ``q``, (n,) each."""
    width = int(q.max(initial=0)) + 1
    labels, inverse = np.unique(p * width + q, return_inverse=True)
    found = [group_position(names, *divmod(label, width)) for label in labels.tolist()]
    return np.array(found, dtype=np.int64)[inverse.reshape(-1)]


def group_position(names: Sequence[str], p: int, q: int) -> int:
    """Find the group of the words of ``p`` source and ``q`` target tokens.

    Raises:
        OptionError: it is not among the names and there is no fallback.
    """
    for name in (f"{p}x{q}", f"x{q}", FALLBACK):
        if name in names:
            return names.index(name)
    raise OptionError(
        f"words with {p} source and {q} target tokens have no group among {list(names)}",
        expected=f"'{p}x{q}', 'x{q}' or 'fallback'",
    )


def word_sources(
    table: WordTable, groups: NDArray[np.int64], manifest: Manifest
) -> list[TensorSource]:
    """Lay a word table out as the tensors of ``words.safetensors``.

    Args:
        table: ``n`` words.
        groups: (n,) the group of every word.
        manifest: what the bundle will say of itself.

    Raises:
        OptionError: the table is one that the strict reader would refuse.
    """
    columns = _columns_of(table, groups)
    try:
        _check_columns(columns, manifest, "word table")
    except BundleError as error:
        raise OptionError(error.given, expected="words that fit both models") from None
    return [array_source(name, column) for name, column in columns.items()]


def _columns_of(table: WordTable, groups: NDArray[np.int64]) -> dict[str, Column]:
    encoded = [word.encode("utf-8") for word in table.words]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(word) for word in encoded], out=offsets[1:])
    return {
        "words.bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "words.offsets": offsets,
        "words.counts": table.counts,
        "words.groups": groups,
        "source.offsets": table.source.offsets,
        "source.ids": table.source.values,
        "target.offsets": table.target.offsets,
        "target.ids": table.target.values,
    }


def streamed_word_sources(table: StoredTable, names: Sequence[str]) -> list[TensorSource]:
    """Lay a table that is not in memory out as :func:`word_sources` does, with the same bytes.

    Every column is a pass over its files, a part in memory at a time. They come from tokenizers
    and are not checked once more.

    Args:
        table: the words.
        names: of the groups, as the manifest has them.
    """
    words = len(table)
    columns: dict[str, tuple[int, Callable[[], Iterator[Column]]]] = {
        "words.bytes": (
            sum(int(part.sum()) for part in table.column("lengths")),
            partial(table.column, "words"),
        ),
        "words.offsets": (words + 1, partial(_rising_of, partial(table.column, "lengths"))),
        "words.counts": (words, partial(table.column, "counts")),
        "words.groups": (words, partial(_groups_of, table, names)),
    }
    for side in ("source", "target"):
        lengths = partial(_lengths_of, table, side)
        total = sum(int(part.sum()) for part in lengths())
        columns[f"{side}.offsets"] = (words + 1, partial(_rising_of, lengths))
        columns[f"{side}.ids"] = (total, partial(table.column, f"{side}_ids"))
    return [
        TensorSource(TensorSpec(name, _DTYPES[name], (size,)), partial(_stored_bytes, parts))
        for name, (size, parts) in columns.items()
    ]


def _stored_bytes(parts: Callable[[], Iterator[Column]]) -> Iterator[memoryview]:
    for part in parts():
        yield _bytes_of(part)


def _lengths_of(table: StoredTable, side: str) -> Iterator[Column]:
    for offsets in table.column(f"{side}_offsets"):
        yield np.diff(offsets)


def _rising_of(lengths: Callable[[], Iterator[Column]]) -> Iterator[Column]:
    return _rising(lengths())


def _rising(lengths: Iterable[Column]) -> Iterator[Column]:
    """Offsets from lengths, part by part."""
    last = 0
    yield np.zeros(1, np.int64)
    for part in lengths:
        offsets = last + np.cumsum(part, dtype=np.int64)
        last = int(offsets[-1]) if len(offsets) else last
        yield offsets


def _groups_of(table: StoredTable, names: Sequence[str]) -> Iterator[Column]:
    lengths = _lengths_of(table, "source"), _lengths_of(table, "target")
    for p, q in zip(*lengths, strict=True):
        yield _positions(p, q, names)


def _bytes_of(column: Column) -> memoryview:
    kind = "u1" if column.dtype == np.uint8 else "<i8"
    data: memoryview = np.ascontiguousarray(column, dtype=kind).view(np.uint8).data
    return data


def parse_words(
    data: NDArray[np.uint8], manifest: Manifest, where: str
) -> tuple[WordTable, NDArray[np.int64]]:
    """Read and check the bytes of ``words.safetensors``.

    Args:
        data: the whole file, checksum already verified.
        manifest: what the bundle says of itself.
        where: the file, for messages.

    Returns:
        The word table, and the group of every word (n,) int64 as a position in
        ``manifest.group_names``.

    Raises:
        BundleError: a column is missing, unknown, or does not fit the others or the manifest.
    """
    columns = _columns(data, where)
    return _check_columns(columns, manifest, where), columns["words.groups"]


def _check_columns(columns: dict[str, Column], manifest: Manifest, where: str) -> WordTable:
    n = manifest.words
    for name in ("words.counts", "words.groups"):
        _require(columns[name].shape == (n,), where, name, f"does not have {n} elements")
    _require(
        bool((columns["words.counts"] >= 0).all()), where, "words.counts", "has a negative count"
    )
    words = _parse_text(columns, n, where)
    ragged = {
        "source": _parse_ids(columns, "source", n, manifest.source.vocabulary_size, where),
        "target": _parse_ids(columns, "target", n, manifest.target.vocabulary_size, where),
    }
    try:
        table = WordTable(words=words, counts=columns["words.counts"], **ragged)
    except FuseIndexError as error:
        raise BundleError(f"{where}: {error}", remedy=_FETCH_AGAIN) from None
    _check_groups(table, columns["words.groups"], manifest, where)
    return table


def _columns(data: NDArray[np.uint8], where: str) -> dict[str, Column]:
    length = header_length(data[:8].tobytes(), data.size, where)
    entries = parse_header(data[8 : 8 + length].tobytes(), data.size, where)
    if set(entries) != set(_DTYPES):
        raise BundleError(
            f"{where} has tensors {sorted(entries)}",
            expected=f"{sorted(_DTYPES)}",
            remedy=_FETCH_AGAIN,
        )
    return {name: _column(data, entry, where) for name, entry in entries.items()}


def _column(data: NDArray[np.uint8], entry: TensorEntry, where: str) -> Column:
    spec: TensorSpec = entry.spec
    _require(spec.dtype == _DTYPES[spec.name], where, spec.name, f"has dtype {spec.dtype}")
    _require(len(spec.shape) == 1, where, spec.name, f"has shape {spec.shape}")
    return as_array(spec, data[entry.start : entry.stop])


def _parse_text(columns: dict[str, Column], n: int, where: str) -> tuple[str, ...]:
    text, offsets = columns["words.bytes"], columns["words.offsets"]
    _check_offsets(offsets, n, text.size, "words.offsets", where)
    data, bounds = text.tobytes(), offsets.tolist()
    try:
        words = tuple(data[start:stop].decode("utf-8") for start, stop in pairwise(bounds))
    except UnicodeDecodeError as error:
        raise BundleError(
            f"{where}: words.bytes is not UTF-8 ({error})", remedy=_FETCH_AGAIN
        ) from None
    _require(len(set(words)) == n, where, "words.bytes", "holds a word twice")
    return words


def _parse_ids(
    columns: dict[str, Column], side: str, n: int, vocabulary_size: int, where: str
) -> Ragged:
    offsets, ids = columns[f"{side}.offsets"], columns[f"{side}.ids"]
    name = f"{side}.offsets"
    _check_offsets(offsets, n, ids.size, name, where)
    if n:
        longest = int(np.diff(offsets).max())
        _require(longest <= MAX_TOKENS, where, name, f"gives a word more than {MAX_TOKENS} tokens")
    _require(
        not ids.size or (int(ids.min()) >= 0 and int(ids.max()) < vocabulary_size),
        where,
        f"{side}.ids",
        f"has an id outside 0..{vocabulary_size - 1}",
    )
    return Ragged(offsets=offsets, values=ids)


def _check_offsets(offsets: Column, n: int, total: int, name: str, where: str) -> None:
    _require(offsets.shape == (n + 1,), where, name, f"does not have {n + 1} elements")
    # Differences may wrap around, so increase and range are both checked on the values themselves.
    _require(
        bool(offsets[0] == 0 and offsets[-1] == total and (offsets[1:] > offsets[:-1]).all()),
        where,
        name,
        f"does not rise from 0 to {total}",
    )


def _check_groups(
    table: WordTable, groups: NDArray[np.int64], manifest: Manifest, where: str
) -> None:
    name, names = "words.groups", manifest.group_names
    _require(
        not groups.size or (int(groups.min()) >= 0 and int(groups.max()) < len(names)),
        where,
        name,
        f"has a group outside 0..{len(names) - 1}",
    )
    keys = np.array([_counts_of(group) for group in names], dtype=np.int64).reshape(-1, 2)[groups]
    counts = np.stack([table.source.lengths, table.target.lengths], axis=1)
    _require(
        bool(((keys == 0) | (keys == counts)).all()),
        where,
        name,
        "puts a word into a group of other token counts",
    )
    found = np.bincount(groups, minlength=len(names)).tolist()
    expected = [group.words for group in manifest.groups]
    _require(found == expected, where, name, "does not have the manifest's number of words a group")


def _counts_of(name: str) -> tuple[int, int]:
    key = parse_group(name)
    return key.source_count, key.target_count


def _require(fits: bool, where: str, tensor: str, problem: str) -> None:
    if not fits:
        raise BundleError(f"{where}: tensor {tensor!r} {problem}", remedy=_FETCH_AGAIN)
