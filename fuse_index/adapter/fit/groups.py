"""Word groups, and their split into words to fit on and words held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.adapter.fit.options import FitOptions, Grouping
from fuse_index.adapter.fit.rows import WordRows
from fuse_index.words.corpus.stored import StoredArray
from fuse_index.words.table import Blocks, WordTable

FALLBACK = "fallback"

Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]
Label = tuple[int, int]
"""(p, q) of a group; p is 0 where it does not matter."""

_KEYED = 1 << 10


@dataclass(frozen=True)
class WordGroup:
    """Words that share an adapter.

    Attributes:
        name: ``"{p}x{q}"``, or ``"x{q}"`` where the target alone decides.
        k: tube length, the largest number of tokens on either side.
        q: target tokens of every word.
        shared: whether every word has one source token.
        train: words to fit on.
        held_out: words to measure on.
    """

    name: str
    k: int
    q: int
    shared: bool
    train: WordRows
    held_out: WordRows


def group_words(
    table: Blocks, options: FitOptions, folder: Path | None = None, *, wide: bool = False
) -> list[WordGroup]:
    """Sort words into groups, and decide which are fitted on and which are held out.

    Whether a word is held out depends on the word and the seed only, not on the other words or
    their order.

    Args:
        table: the words, read a part at a time.
        options: how to group, what to hold out and what to draw.
        folder: for files of token ids, two a group; ``None`` keeps them in memory.
        wide: whether ids need more than 31 bits.

    Returns:
        The groups that have words, sorted by (p, q).
    """
    most = most_source_tokens(table, options)
    with ExitStack() as stack:
        writers = {
            label: tuple(
                _RowWriter(_path(folder, label, kind), stack) for kind in ("train", "held")
            )
            for label in sorted(most)
        }
        for label, block, *both in split_words(table, options):
            for writer, rows in zip(writers[label], both, strict=True):
                writer.add(_ids(block, rows, most[label], label[1], wide=wide))
    groups = []
    for label, p in sorted(most.items()):
        q = label[1]
        train, held_out = (WordRows.of(writer.ids(p + q), p, q) for writer in writers[label])
        groups.append(WordGroup(group_name(label), max(p, q), q, p == 1, train, held_out))
    return groups


def group_name(label: Label) -> str:
    """Return ``"{p}x{q}"``, or ``"x{q}"`` where the target alone decides."""
    return f"{label[0] or ''}x{label[1]}"


def most_source_tokens(table: Blocks, options: FitOptions) -> dict[Label, int]:
    """Return the groups that have words, with the most source tokens of a word."""
    most: dict[Label, int] = {}
    for p, q in table.sizes():
        label = (p if options.grouping is Grouping.PAIR else 0, q)
        most[label] = max(most.get(label, 0), p)
    return most


def split_words(
    table: Blocks, options: FitOptions
) -> Iterator[tuple[Label, WordTable, Rows, Rows]]:
    """Split the words of every group into those to fit on and those held out.

    Yields:
        The group, a part of the table, and the rows of that part to fit on and held out.
    """
    hold_out = _leaves_words(table, options)
    drawn = _draw(table, options, hold_out)
    for block, start, held_out in _blocks(table, options, hold_out):
        for label, rows in _members(block, options):
            train = rows[~held_out[rows]]
            if drawn is not None:
                train = train[np.isin(train + start, drawn[label])]
            yield label, block, train, rows[held_out[rows]]


class _RowWriter:
    """Collects rows of ids in memory, or in a file."""

    def __init__(self, path: Path | None, stack: ExitStack) -> None:
        self._path = path
        self._parts: list[NDArray[Any]] = []
        self._file = None if path is None else stack.enter_context(path.open("wb"))
        self._kind = "<i4"

    def add(self, ids: NDArray[Any]) -> None:
        self._kind = ids.dtype.str
        if self._file is not None:
            self._file.write(ids.tobytes())
        else:
            self._parts.append(ids)

    def ids(self, columns: int) -> NDArray[Any] | StoredArray:
        if self._path is not None:
            return StoredArray.open(self._path, self._kind, columns)
        empty = np.empty((0, columns), self._kind)
        return self._parts[0] if len(self._parts) == 1 else np.concatenate([empty, *self._parts])


def _path(folder: Path | None, label: Label, kind: str) -> Path | None:
    return None if folder is None else folder / f"{label[0]}x{label[1]}.{kind}"


def _ids(block: WordTable, rows: Rows, p: int, q: int, *, wide: bool) -> NDArray[Any]:
    sides = block.source.select(rows).padded(p), block.target.select(rows).padded(q)
    return np.concatenate(sides, axis=1).astype("<i8" if wide else "<i4")


def _draw(table: Blocks, options: FitOptions, hold_out: bool) -> dict[Label, Rows] | None:
    """Draw at most ``max_words`` words of a group to fit on: those with the smallest keys."""
    if options.max_words is None:
        return None
    keys: dict[Label, NDArray[np.uint64]] = {}
    drawn: dict[Label, Rows] = {}
    for block, start, held_out in _blocks(table, options, hold_out):
        for label, rows in _members(block, options):
            train = rows[~held_out[rows]]
            new = word_keys([block.words[row] for row in train], options.seed)
            all_keys = np.concatenate([keys.get(label, new[:0]), new])
            all_rows = np.concatenate([drawn.get(label, train[:0]), train + start])
            best = np.lexsort((all_rows, all_keys))[: options.max_words]
            keys[label], drawn[label] = all_keys[best], all_rows[best]
    return drawn


def _members(block: WordTable, options: FitOptions) -> Iterator[tuple[Label, Rows]]:
    """Yield the label of every group in a part of the table, and its rows there."""
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
            flags = _held_out(block.words, options) if hold_out else np.zeros(len(block), np.bool_)
            yield block, start, flags
            start += len(block)


def _held_out(words: Sequence[str], options: FitOptions) -> Flags:
    flags: Flags = word_keys(words, options.seed) < np.uint64(int(options.holdout * 2**64))
    return flags


def _leaves_words(table: Blocks, options: FitOptions) -> bool:
    """Whether words are held out and others are left; otherwise none is held out."""
    if options.holdout <= 0:
        return False
    held_out = partial(_held_out, options=options)
    return any(
        not held_out(block.words[start : start + _KEYED]).all()
        for block in table.blocks()
        for start in range(0, len(block), _KEYED)
    )


def word_keys(words: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return one uniform 64-bit number per word: a keyed hash of the word itself."""
    key = seed.to_bytes((seed.bit_length() + 7) // 8 or 1, "little")
    digests = [
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
        for word in words
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
