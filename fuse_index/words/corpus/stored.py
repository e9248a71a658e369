"""Arrays and texts in files, read a slice at a time: any length in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fuse_index.errors import StorageError

Fill = Callable[[int, memoryview], None]
"""Called with a position in a file and a buffer to fill with the bytes from there on."""

_STEP = 1 << 16


class StoredArray:
    """A vector or a matrix in a file; slices of its rows are read into memory.

    Args:
        fill: reads the file.
        dtype: of the values, little-endian.
        shape: ``(n,)`` or ``(n, columns)``.
        start: where the values begin in the file.
    """

    def __init__(self, fill: Fill, dtype: str, shape: tuple[int, ...], start: int = 0) -> None:
        self.shape = shape
        self._fill = fill
        self._dtype = np.dtype(dtype)
        self._start = start

    @classmethod
    def open(cls, path: Path, dtype: str, columns: int | None = None) -> StoredArray:
        """Return all of a file as an array of vectors of ``columns`` values, or as one vector."""
        row = np.dtype(dtype).itemsize * (columns or 1)
        shape = (path.stat().st_size // row, *(() if columns is None else (columns,)))
        return cls(partial(_fill_from, path), dtype, shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> NDArray[Any]:
        start, stop, _ = part.indices(len(self))
        values: NDArray[Any] = np.empty((max(0, stop - start), *self.shape[1:]), self._dtype)
        row = self._dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        self._fill(self._start + start * row, values.reshape(-1).view(np.uint8).data)
        return values


class Texts(Sequence[str]):
    """Texts as their UTF-8 bytes and offsets, in memory or in files; decoded on access.

    Args:
        data: ``(bytes,)`` uint8.
        offsets: ``(n + 1,)`` int64 positions in ``data``.
    """

    def __init__(
        self, data: NDArray[np.uint8] | StoredArray, offsets: NDArray[np.int64] | StoredArray
    ) -> None:
        self._data = data
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return self._decoded(start, max(start, stop))
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        return self._decoded(index % len(self), index % len(self) + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _STEP):
            yield from self._decoded(start, min(start + _STEP, len(self)))

    def _decoded(self, start: int, stop: int) -> tuple[str, ...]:
        bounds = self._offsets[start : stop + 1]
        data = self._data[int(bounds[0]) : int(bounds[-1])].tobytes()
        return tuple(data[a:b].decode() for a, b in pairwise((bounds - bounds[0]).tolist()))


def _fill_from(path: Path, start: int, buffer: memoryview) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while buffer and (count := file.readinto(buffer)):
            buffer = buffer[count:]
    if buffer:
        raise StorageError(f"{path} ends early", expected=f"{len(buffer)} bytes more")
