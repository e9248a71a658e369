"""Word tables in files, one file a part: any number of words in constant memory."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.words.corpus.stored import Texts
from fuse_index.words.ragged import Ragged, offsets_of
from fuse_index.words.table import WordTable


class StoredTable:
    """A word table in parts that are read when they are needed; see :class:`~.table.Blocks`.

    Args:
        parts: read the parts, in the order of the words.
    """

    def __init__(self, parts: Sequence[Callable[[], WordTable]]) -> None:
        self._parts = parts
        self._sizes: Counter[tuple[int, int]] | None = None

    @classmethod
    def open(cls, paths: Sequence[Path]) -> StoredTable:
        """Return the table whose parts were written by :func:`pack_part`."""
        return cls([partial(read_part, path) for path in paths])

    def blocks(self) -> Iterator[WordTable]:
        """Yield the parts in their order."""
        for read in self._parts:
            yield read()

    def sizes(self) -> Mapping[tuple[int, int], int]:
        """Return how many words have ``p`` source and ``q`` target tokens, by ``(p, q)``."""
        if self._sizes is None:
            self._sizes = Counter()
            for block in self.blocks():
                self._sizes.update(block.sizes())
        return self._sizes

    def __len__(self) -> int:
        return sum(self.sizes().values())


def pack_part(table: WordTable, left_out: Mapping[str, int]) -> bytes:
    """Return a part of a table, and how many words were left out by reason, as a file."""
    encoded = [word.encode() for word in table.words]
    columns: dict[str, NDArray[Any]] = {
        "words": np.frombuffer(b"".join(encoded), np.uint8),
        "lengths": np.fromiter(map(len, encoded), np.int32, len(encoded)),
        "counts": table.counts,
        "left_out": np.frombuffer(json.dumps(left_out).encode(), np.uint8),
    }
    for side in ("source", "target"):
        ids: Ragged = getattr(table, side)
        columns[f"{side}_offsets"] = ids.offsets
        columns[f"{side}_ids"] = ids.values.astype(np.int32)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **columns)
    return file.getvalue()


def read_part(path: Path) -> WordTable:
    """Read the words of a file of :func:`pack_part`."""
    with np.load(path, allow_pickle=False) as data:
        words = Texts(data["words"], offsets_of(data["lengths"]))
        sides = [
            Ragged(data[f"{side}_offsets"], data[f"{side}_ids"]) for side in ("source", "target")
        ]
        return WordTable(words, data["counts"], *sides)


def read_left_out(path: Path) -> dict[str, int]:
    """Read how many words a file of :func:`pack_part` leaves out, by reason."""
    with np.load(path, allow_pickle=False) as data:
        found: dict[str, int] = json.loads(data["left_out"].tobytes())
        return found
