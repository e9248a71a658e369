"""``words.safetensors``: the word table and the group of every word as flat columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.files import CheckedFile
from fuse_index.bundle.layout import FALLBACK, MAX_TOKENS, WORDS, parse_group
from fuse_index.bundle.manifest import Manifest
from fuse_index.bundle.tensorfile import (
    TensorEntry,
    TensorSource,
    TensorSpec,
    as_array,
    parse_file,
)
from fuse_index.common.progress import Add, ignore
from fuse_index.errors import BundleError, FuseIndexError, OptionError
from fuse_index.words import table as word_table
from fuse_index.words.corpus.stored import StoredArray, Texts
from fuse_index.words.ragged import Ragged, offsets_of
from fuse_index.words.stored_table import StoredTable
from fuse_index.words.table import Blocks, WordTable

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
_VALUES = {"words": "words.bytes", "source": "source.ids", "target": "target.ids"}
_FETCH_AGAIN = "fetch or build the bundle again"


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
    p, q = table.source.lengths, table.target.lengths
    width = int(q.max(initial=0)) + 1
    labels, inverse = np.unique(p * width + q, return_inverse=True)
    found = [group_position(names, *divmod(label, width)) for label in labels.tolist()]
    positions: NDArray[np.int64] = np.array(found, np.int64)[inverse.reshape(-1)]
    return positions


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


def word_sources(table: Blocks, manifest: Manifest) -> list[TensorSource]:
    """Lay a word table out as the tensors of ``words.safetensors``, a part in memory at a time.

    Args:
        table: the words.
        manifest: of the bundle to be written.

    Raises:
        OptionError: the table is one that the strict reader would refuse.
    """
    names, where = manifest.group_names, "word table"
    sizes = {name: int(name.endswith(".offsets")) for name in _DTYPES}
    try:
        _require(len(table) == manifest.words, where, "words.counts", "has another length")
        for block in table.blocks():
            columns = {name: _column_of(block, name, names) for name in _DTYPES}
            _check_part(columns, manifest, where)
            for name, column in columns.items():
                sizes[name] += len(column) - name.endswith(".offsets")
    except BundleError as error:
        raise OptionError(error.given, expected="words that fit both models") from None
    return [
        TensorSource(TensorSpec(name, _DTYPES[name], (size,)), partial(_pieces, table, name, names))
        for name, size in sizes.items()
    ]


def _pieces(table: Blocks, name: str, names: Sequence[str]) -> Iterator[memoryview]:
    """Yield the bytes of a column, part by part."""
    last, rises = 0, name.endswith(".offsets")
    if rises:
        yield _bytes_of(np.zeros(1, np.int64))
    for block in table.blocks():
        column = _column_of(block, name, names)
        if rises:
            column = column[1:] + last
            last = int(column[-1]) if len(column) else last
        yield _bytes_of(column)


def _column_of(block: WordTable, name: str, names: Sequence[str]) -> Column:
    """Return a column of a part of a table; offsets begin at 0."""
    side, _, kind = name.partition(".")
    if side != "words":
        ids: Ragged = getattr(block, side)
        return ids.values if kind == "ids" else ids.offsets
    if kind == "counts":
        return block.counts
    if kind == "groups":
        return assign_groups(block, names)
    encoded = [word.encode("utf-8") for word in block.words]
    if kind == "bytes":
        return np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return offsets_of(np.fromiter(map(len, encoded), np.int64, len(encoded)))


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
        manifest: of the bundle.
        where: the file, for messages.

    Returns:
        The word table, and the group of every word (n,) int64 as a position in
        ``manifest.group_names``.

    Raises:
        BundleError: a column is missing, unknown, or does not fit the others or the manifest.
    """
    entries = parse_file(data, where)
    _check_entries(entries, manifest, where)
    columns = {
        name: as_array(entry.spec, data[entry.start : entry.stop])
        for name, entry in entries.items()
    }
    table, groups = _check_part(columns, manifest, where), columns["words.groups"]
    _check_totals(np.bincount(groups, minlength=len(manifest.groups)), manifest, where)
    return table, groups


class WordReader:
    """The words of a bundle, read a part at a time: any number of them in constant memory.

    The checksum of the file is verified on opening, its columns as they are read; only words that
    occur twice are not looked for.

    Args:
        root: the bundle's folder.
        manifest: its manifest.
        report: called with the bytes checked since the last call.

    Attributes:
        ranges: first word and the one to stop before, of every part.

    Raises:
        BundleError: the file is damaged or does not fit the manifest.
    """

    def __init__(self, root: Path, manifest: Manifest, report: Add = ignore) -> None:
        file = CheckedFile(root, WORDS, manifest.files[WORDS], report)
        self.where = file.where
        self.close = file.close
        _check_entries(file.entries, manifest, file.where)
        self._manifest = manifest
        self._columns = {
            name: StoredArray(
                file.fill,
                "<i8" if entry.spec.dtype == "I64" else "u1",
                entry.spec.shape,
                entry.start,
            )
            for name, entry in file.entries.items()
        }
        step, words = word_table.SHARD_WORDS, manifest.words
        self.ranges = [(start, min(start + step, words)) for start in range(0, words, step)]
        none = np.zeros(len(manifest.groups), np.int64)
        _check_totals(sum(self.group_counts(), none), manifest, file.where)
        for side, values in _VALUES.items():
            name, size = f"{side}.offsets", self._columns[values].shape[0]
            offsets = self._columns[name]
            ends = np.concatenate([offsets[:1], offsets[words : words + 1]])
            _require(
                ends.tolist() == [0, size], self.where, name, f"does not rise from 0 to {size}"
            )

    def group_counts(self) -> list[NDArray[np.int64]]:
        """Return how many words of every group there are, by part."""
        groups, names = self._columns["words.groups"], self._manifest.group_names
        counts = []
        for start, stop in self.ranges:
            column = groups[start:stop]
            _check_positions(column, names, self.where)
            counts.append(np.bincount(column, minlength=len(names)))
        return counts

    def part(self, start: int, stop: int) -> tuple[WordTable, NDArray[np.int64]]:
        """Read some words, and the group of each.

        Raises:
            BundleError: a column does not fit the others or the manifest.
        """
        columns: dict[str, Column] = {
            name: self._columns[name][start:stop] for name in ("words.counts", "words.groups")
        }
        for side, values in _VALUES.items():
            offsets = self._columns[f"{side}.offsets"][start : stop + 1]
            first, last = int(offsets[0]), int(offsets[-1])
            columns[f"{side}.offsets"] = offsets - first
            columns[values] = self._columns[values][first:last]
        return _check_part(columns, self._manifest, self.where), columns["words.groups"]

    def table(self) -> StoredTable:
        """Return the words as a table in parts."""
        return StoredTable([partial(self._table, *range_) for range_ in self.ranges])

    def _table(self, start: int, stop: int) -> WordTable:
        return self.part(start, stop)[0]


def _check_entries(entries: Mapping[str, TensorEntry], manifest: Manifest, where: str) -> None:
    """Check names, dtypes and sizes of the columns."""
    if set(entries) != set(_DTYPES):
        raise BundleError(
            f"{where} has tensors {sorted(entries)}",
            expected=f"{sorted(_DTYPES)}",
            remedy=_FETCH_AGAIN,
        )
    n = manifest.words
    for name, entry in entries.items():
        spec: TensorSpec = entry.spec
        _require(spec.dtype == _DTYPES[name], where, name, f"has dtype {spec.dtype}")
        _require(len(spec.shape) == 1, where, name, f"has shape {spec.shape}")
        if name not in _VALUES.values():
            size = n + name.endswith(".offsets")
            _require(spec.shape == (size,), where, name, f"does not have {size} elements")


def _check_part(columns: Mapping[str, Column], manifest: Manifest, where: str) -> WordTable:
    """Check the columns of some words, whose offsets begin at 0, and make a table of them."""
    counts, groups = columns["words.counts"], columns["words.groups"]
    _require(bool((counts >= 0).all()), where, "words.counts", "has a negative count")
    _check_positions(groups, manifest.group_names, where)
    words = _parse_text(columns, where)
    try:
        table = WordTable(
            words,
            counts,
            _parse_ids(columns, "source", manifest.source.vocabulary_size, where),
            _parse_ids(columns, "target", manifest.target.vocabulary_size, where),
        )
    except FuseIndexError as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{where}: {error}", remedy=_FETCH_AGAIN) from None
    _check_groups(table, groups, manifest.group_names, where)
    same = not manifest.identity or table.source.equals(table.target)
    _require(same, where, "target.ids", "differs from the source's, although the model is the same")
    return table


def _parse_text(columns: Mapping[str, Column], where: str) -> tuple[str, ...]:
    text, offsets = columns["words.bytes"], columns["words.offsets"]
    _check_offsets(offsets, text.size, "words.offsets", where)
    try:
        words = Texts(text, offsets)[:]
    except UnicodeDecodeError as error:
        raise BundleError(
            f"{where}: words.bytes is not UTF-8 ({error})", remedy=_FETCH_AGAIN
        ) from None
    _require(len(set(words)) == len(words), where, "words.bytes", "holds a word twice")
    return words


def _parse_ids(
    columns: Mapping[str, Column], side: str, vocabulary_size: int, where: str
) -> Ragged:
    name = f"{side}.offsets"
    offsets, ids = columns[name], columns[f"{side}.ids"]
    _check_offsets(offsets, ids.size, name, where)
    longest = int(np.diff(offsets).max(initial=0))
    _require(longest <= MAX_TOKENS, where, name, f"gives a word more than {MAX_TOKENS} tokens")
    _require(
        not ids.size or (int(ids.min()) >= 0 and int(ids.max()) < vocabulary_size),
        where,
        f"{side}.ids",
        f"has an id outside 0..{vocabulary_size - 1}",
    )
    return Ragged(offsets=offsets, values=ids)


def _check_offsets(offsets: Column, total: int, name: str, where: str) -> None:
    # Differences may wrap around, so increase and range are both checked on the values themselves.
    _require(
        bool(offsets[0] == 0 and offsets[-1] == total and (offsets[1:] > offsets[:-1]).all()),
        where,
        name,
        f"does not rise from 0 to {total}",
    )


def _check_positions(groups: Column, names: Sequence[str], where: str) -> None:
    _require(
        not groups.size or (int(groups.min()) >= 0 and int(groups.max()) < len(names)),
        where,
        "words.groups",
        f"has a group outside 0..{len(names) - 1}",
    )


def _check_groups(table: WordTable, groups: Column, names: Sequence[str], where: str) -> None:
    parsed = [parse_group(name) for name in names]
    keys = np.array([(key.source_count, key.target_count) for key in parsed], dtype=np.int64)
    own = keys.reshape(-1, 2)[groups]
    _require(
        bool(((own == 0) | (own == table.shapes)).all()),
        where,
        "words.groups",
        "puts a word into a group of other token counts",
    )


def _check_totals(found: Column, manifest: Manifest, where: str) -> None:
    expected = [group.words for group in manifest.groups]
    _require(
        found.tolist() == expected,
        where,
        "words.groups",
        "does not have the manifest's number of words a group",
    )


def _require(fits: bool, where: str, tensor: str, problem: str) -> None:
    if not fits:
        raise BundleError(f"{where}: tensor {tensor!r} {problem}", remedy=_FETCH_AGAIN)
