"""Words, and tables of words with their tokens, in files: any number of them in constant memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.errors import ShapeError
from fuse_index.words.corpus.words import WordCounts
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable, count_shapes

_BYTES, _OFFSETS, _COUNTS, _SUMMARY = "words.bytes", "words.offsets", "words.counts", "words.json"
_HASH_BLOCK = 1 << 22


class WordWriter:
    """Writes words with their counts, in their order, a batch at a time.

    Use as a context manager; the folder holds words once it ends without an error.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[IO[bytes]] = []
        self._digest = hashlib.sha256()
        self._size = 0
        self._count = 0

    def __enter__(self) -> WordWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / _SUMMARY).unlink(missing_ok=True)
        self._files = [(self._folder / name).open("wb") for name in (_BYTES, _OFFSETS, _COUNTS)]
        self._files[1].write(np.zeros(1, "<i8").tobytes())
        return self

    def add(
        self, text: NDArray[np.uint8], offsets: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> None:
        """Append ``n`` words.

        Args:
            text: their bytes.
            offsets: ``(n + 1,)`` in ``text``, from 0.
            counts: ``(n,)``.
        """
        if not len(counts):
            return
        text_file, offsets_file, counts_file = self._files
        text_file.write(text.data)
        offsets_file.write((offsets[1:] + self._size).astype("<i8").data)
        counts_file.write(counts.astype("<i8").data)
        lines = np.insert(text, offsets[1:-1], ord("\n"))  # what WordCounts.sha256 joins
        self._digest.update(b"\n" * bool(self._count) + lines.tobytes())
        self._size += int(offsets[-1])
        self._count += len(counts)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for file in self._files:
            file.close()
        if kind is not None:
            return
        self._digest.update(b"\0")
        with (self._folder / _COUNTS).open("rb") as stream:
            while block := stream.read(_HASH_BLOCK):
                self._digest.update(block)
        summary = {"words": self._count, "sha256": self._digest.hexdigest()}
        write_json(self._folder / _SUMMARY, summary)


class StoredWords:
    """What :class:`~fuse_index.words.corpus.words.WordCounts` holds, in a folder.

    Args:
        folder: as :class:`WordWriter` made it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._summary = json.loads((folder / _SUMMARY).read_text(encoding="ascii"))

    def __len__(self) -> int:
        return int(self._summary["words"])

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a folder holds words, all of them."""
        return (folder / _SUMMARY).is_file()

    def sha256(self) -> str:
        """The hash that :meth:`WordCounts.sha256` gives."""
        return str(self._summary["sha256"])

    def part(self, start: int, stop: int) -> WordCounts:
        """Read the words from ``start`` to ``stop`` into the memory."""
        size = max(0, min(stop, len(self)) - start)
        offsets = self._read(_OFFSETS, "<i8", start, size + 1)
        counts = self._read(_COUNTS, "<i8", start, size)
        first, last = int(offsets[0]), int(offsets[-1])
        data = self._read(_BYTES, "u1", first, last - first).tobytes()
        bounds = (offsets - first).tolist()
        words = tuple(data[a:b].decode() for a, b in pairwise(bounds))
        return WordCounts(words, counts)

    def _read(self, name: str, kind: str, start: int, size: int) -> NDArray[Any]:
        offset = start * np.dtype(kind).itemsize
        values: NDArray[Any] = np.fromfile(self._folder / name, kind, size, offset=offset)
        if len(values) != size:
            raise ShapeError(f"{self._folder / name} ends early", expected=f"{size} values more")
        return values


class StoredTable:
    """A word table in parts, one file each, in the order of the words.

    Args:
        folder: where the parts are.
        parts: how many there are.
    """

    def __init__(self, folder: Path, parts: int) -> None:
        self._folder = folder
        self._parts = parts
        self._sizes: Counter[tuple[int, int]] | None = None

    @staticmethod
    def path(folder: Path, part: int) -> Path:
        """The file of a part."""
        return folder / f"part-{part:06d}.npz"

    def blocks(self) -> Iterator[WordTable]:
        """Yield the parts, in order."""
        for part in range(self._parts):
            yield read_part(self.path(self._folder, part))[0]

    def column(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield one column of every part as it is stored, without making words of it.

        Args:
            name: ``words`` (bytes), ``lengths`` (of the words), ``counts``, or of a side
                ``source_offsets`` and ``source_ids``.
        """
        for part in range(self._parts):
            with np.load(self.path(self._folder, part), allow_pickle=False) as data:
                yield data[name]

    def sizes(self) -> Mapping[tuple[int, int], int]:
        """How many words there are of ``p`` source and ``q`` target tokens, by ``(p, q)``."""
        if self._sizes is None:
            self._sizes = Counter()
            sides = self.column("source_offsets"), self.column("target_offsets")
            for offsets in zip(*sides, strict=True):
                self._sizes.update(count_shapes(*map(np.diff, offsets)))
        return self._sizes

    def __len__(self) -> int:
        return sum(self.sizes().values())

    def load(self) -> WordTable:
        """Read all of it into the memory."""
        return WordTable.concatenate(list(self.blocks()))


def write_part(path: Path, table: WordTable, left_out: Mapping[str, int]) -> None:
    """Write one part of a table, and how many words were left out by reason; all or nothing."""
    encoded = [word.encode() for word in table.words]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    columns: dict[str, NDArray[Any]] = {
        "words": np.frombuffer(b"".join(encoded), np.uint8),
        "lengths": lengths.astype(np.int32),
        "counts": table.counts,
        "left_out": np.frombuffer(json.dumps(left_out).encode(), np.uint8),
    }
    for side in ("source", "target"):
        ids: Ragged = getattr(table, side)
        columns[f"{side}_offsets"] = ids.offsets
        columns[f"{side}_ids"] = ids.values.astype(np.int32)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **columns)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def read_part(path: Path) -> tuple[WordTable, dict[str, int]]:
    """Read what :func:`write_part` wrote."""
    with np.load(path, allow_pickle=False) as data:
        text = data["words"].tobytes()
        bounds = [0, *np.cumsum(data["lengths"], dtype=np.int64).tolist()]
        words = tuple(text[a:b].decode() for a, b in pairwise(bounds))
        sides = [
            Ragged(data[f"{side}_offsets"], data[f"{side}_ids"]) for side in ("source", "target")
        ]
        table = WordTable(words, data["counts"], *sides)
        return table, json.loads(data["left_out"].tobytes())


def write_json(path: Path, value: Any) -> None:
    """Write a small file of JSON, all or nothing."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="ascii") as stream:
        json.dump(value, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
