"""Words of groups in files: fits of any number of words in constant memory.

Every group has two files, of the words to fit on and of those held out: one row of int32 a word,
its source tokens and then its target tokens, each padded with -1 to the most of the group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from fuse_index.adapter.fit.groups import WordGroup, held_out_below, word_keys
from fuse_index.adapter.fit.options import FitOptions, Grouping
from fuse_index.adapter.fit.stream import EmbeddingStream, Ids
from fuse_index.words.table import WordTable

Flags = NDArray[np.bool_]


class Blocks(Protocol):
    """A word table in parts."""

    def blocks(self) -> Iterator[WordTable]:
        """Yield the parts in their order."""


@dataclass(frozen=True)
class StoredRows:
    """Some words of a group, in a file or in the memory.

    Attributes:
        place: the file, or its rows ``(n, p + q)`` int32.
        p: columns of source tokens.
        q: columns of target tokens.
        start: the first word.
        stop: the word to stop before.
    """

    place: Path | NDArray[np.int32]
    p: int
    q: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> StoredRows:
        start, stop, _ = part.indices(len(self))
        return StoredRows(self.place, self.p, self.q, self.start + start, self.start + stop)

    def read(self) -> NDArray[np.int32]:
        """Return ``(n, p + q)`` int32."""
        if not isinstance(self.place, Path):
            return self.place[self.start : self.stop]
        row = self.p + self.q
        size = len(self) * row
        values = np.fromfile(self.place, "<i4", size, offset=4 * self.start * row)
        rows: NDArray[np.int32] = values.reshape(len(self), row)
        return rows


@dataclass(frozen=True)
class JoinedRows:
    """The words of several groups, one after the other."""

    parts: tuple[StoredRows, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, part: slice) -> JoinedRows:
        start, stop, _ = part.indices(len(self))
        kept, before = [], 0
        for rows in self.parts:
            low, high = max(start - before, 0), min(stop - before, len(rows))
            if low < high:
                kept.append(rows[low:high])
            before += len(rows)
        return JoinedRows(tuple(kept))


class StoredStream(EmbeddingStream):
    """A stream of words whose tokens are in files; ``rows`` are :class:`StoredRows` or joined."""

    def tokens(self, rows: StoredRows | JoinedRows) -> tuple[Ids, Ids]:
        """Return the padded token ids of words; see :class:`EmbeddingStream`."""
        parts = rows.parts if isinstance(rows, JoinedRows) else (rows,)
        read = [(part, part.read()) for part in parts]
        source = _stacked([values[:, : part.p] for part, values in read])
        target = _stacked([values[:, part.p :] for part, values in read])
        return source, target

    def join(self, parts: Sequence[StoredRows]) -> JoinedRows:
        """Return the words of all parts, one after the other."""
        return JoinedRows(tuple(parts))

    def target_tokens(self, rows: StoredRows | JoinedRows) -> int:
        """Return how many target tokens words have in all; a group's words have equally many."""
        parts = rows.parts if isinstance(rows, JoinedRows) else (rows,)
        return sum(part.q * len(part) for part in parts)


def _stacked(sides: Sequence[NDArray[np.int32]]) -> Ids:
    """Join the rows of ids of one side, and turn them to ``(tokens, words)``."""
    widest = max(side.shape[1] for side in sides)
    padded = [
        np.pad(side, ((0, 0), (0, widest - side.shape[1])), constant_values=-1) for side in sides
    ]
    ids = padded[0] if len(padded) == 1 else np.concatenate(padded)
    most = int((ids >= 0).sum(1).max(initial=1))
    return np.ascontiguousarray(ids[:, :most].T)


@dataclass
class _Draft:
    """What is known of a group after the first pass.

    Attributes:
        p: most source tokens of a word.
        q: target tokens of every word.
        keys: of the words to fit on that were drawn so far, where their number is limited.
        rows: of the same, in the table.
    """

    p: int
    q: int
    keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def draw(self, keys: NDArray[np.uint64], rows: NDArray[np.int64], most: int) -> None:
        """Keep the words with the smallest keys."""
        keys, rows = np.concatenate([self.keys, keys]), np.concatenate([self.rows, rows])
        best = np.lexsort((rows, keys))[:most]
        self.keys, self.rows = keys[best], rows[best]


def store_groups(table: Blocks, options: FitOptions, folder: Path) -> list[WordGroup]:
    """Sort the words of a table into groups as ``group_words`` does, and write them to files.

    Args:
        table: read three times, a part in memory at a time.
        options: how to group, what to hold out and what to draw.
        folder: for the files.

    Returns:
        The groups; their words are :class:`StoredRows`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hold_out = _leaves_words(table, options)
    drafts = _first_pass(table, options, hold_out)
    counts = {label: [0, 0] for label in drafts}
    with ExitStack() as stack:
        files = {
            label: [stack.enter_context(path.open("wb")) for path in _paths(folder, label)]
            for label in drafts
        }
        for block, start, held_out in _blocks(table, options, hold_out):
            for label, rows in _members(block, options):
                train = rows[~held_out[rows]]
                if options.max_words is not None:
                    train = train[np.isin(train + start, drafts[label].rows)]
                for which, chosen in enumerate((train, rows[held_out[rows]])):
                    counts[label][which] += len(chosen)
                    _write(files[label][which], block, chosen, drafts[label])
    return [
        _group(folder, label, draft, counts[label], options)
        for label, draft in sorted(drafts.items())
    ]


def _group(
    folder: Path, label: tuple[int, int], draft: _Draft, counts: list[int], options: FitOptions
) -> WordGroup:
    train, held_out = (
        StoredRows(path, draft.p, draft.q, 0, count)
        for path, count in zip(_paths(folder, label), counts, strict=True)
    )
    first, second = label
    name = f"{first}x{second}" if options.grouping is Grouping.PAIR else f"x{second}"
    k = max(draft.p, second)
    return WordGroup(name, k, second, draft.p == 1, train, held_out)


def _first_pass(
    table: Blocks, options: FitOptions, hold_out: bool
) -> dict[tuple[int, int], _Draft]:
    drafts: dict[tuple[int, int], _Draft] = {}
    for block, start, held_out in _blocks(table, options, hold_out):
        p = block.source.lengths
        for label, rows in _members(block, options):
            draft = drafts.setdefault(label, _Draft(0, label[1]))
            draft.p = max(draft.p, int(p[rows].max()))
            if options.max_words is not None:
                train = rows[~held_out[rows]]
                keys = word_keys([block.words[row] for row in train], options.seed)
                draft.draw(keys, train + start, options.max_words)
    return drafts


def _members(
    block: WordTable, options: FitOptions
) -> Iterator[tuple[tuple[int, int], NDArray[np.int64]]]:
    """Yield the (p, q) of every group, p being 0 where it does not matter, and its rows."""
    p, q = block.source.lengths, block.target.lengths
    if options.grouping is not Grouping.PAIR:
        p = np.zeros_like(p)
    width = int(q.max()) + 1
    labels = p * width + q
    for label in np.unique(labels).tolist():
        yield divmod(label, width), np.flatnonzero(labels == label)


def _blocks(
    table: Blocks, options: FitOptions, hold_out: bool
) -> Iterator[tuple[WordTable, int, Flags]]:
    """Yield the parts with the number of their first word and which words are held out."""
    start = 0
    for block in table.blocks():
        if len(block):
            yield block, start, _held_out(block, options) & hold_out
            start += len(block)


def _held_out(block: WordTable, options: FitOptions) -> Flags:
    if options.holdout <= 0:
        return np.zeros(len(block), np.bool_)
    flags: Flags = word_keys(block.words, options.seed) < held_out_below(options)
    return flags


def _leaves_words(table: Blocks, options: FitOptions) -> bool:
    """Whether the words that are not held out are any; otherwise none is held out."""
    return any(not _held_out(block, options).all() for block in table.blocks() if len(block))


def _paths(folder: Path, label: tuple[int, int]) -> tuple[Path, Path]:
    name = f"{label[0]}x{label[1]}"
    return folder / f"{name}.train", folder / f"{name}.held-out"


def _write(file: IO[bytes], block: WordTable, rows: NDArray[np.int64], draft: _Draft) -> None:
    if len(rows):
        sides = block.source.select(rows).padded(draft.p), block.target.select(rows).padded(draft.q)
        file.write(np.concatenate(sides, axis=1).astype("<i4").tobytes())
