"""The FAISS file of product codes, checked byte by byte before FAISS reads it.

FAISS takes sizes and ids from the file as they stand there
(https://github.com/facebookresearch/faiss/issues/5400). The one kind of index that is stored has a
fixed layout, the same from FAISS 1.9 to 1.15: every number of it is known but the centroids and
the codes. So all others must be what they have to be, ids included, and nothing that a file says
sets a size or indexes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.layout import MAX_MAGNITUDE
from fuse_index.errors import BundleError
from fuse_index.index.options import Metric
from fuse_index.index.schema import BUILD_AGAIN

_CODEWORDS = 16
"""Centroids of a part of a vector: 4 bits."""
_BLOCK = 32
"""Vectors whose codes FAISS scans together."""
_PACKED = (1 << 64) - 1
"""What FAISS writes for the size of codes that lie in blocks."""
_RESERVED = 1 << 20
"""What FAISS writes where it once had two more fields."""


def parts_of(width: int, projected: bool) -> int:
    """Parts of a vector that get a code each: projected dimensions, or two others, share one."""
    return width if projected or width % 2 else width // 2


class OtherVectorsError(ValueError):
    """An index holds another number of vectors, or of another width."""


@dataclass(frozen=True)
class CodesLayout:
    """The layout of a file of product codes, all in one list.

    Attributes:
        width: columns of the vectors.
        parts: of a vector, each with a code of 4 bits.
        words: how many vectors it holds; their ids are 0, 1, ...
        metric: that it was made for.
    """

    width: int
    parts: int
    words: int
    metric: Metric

    @classmethod
    def of(cls, width: int, words: int, metric: Metric, *, projected: bool) -> CodesLayout:
        """Return the layout of what a build makes of ``words`` vectors of ``width`` columns."""
        return cls(width, parts_of(width, projected), words, metric)

    def check(self, data: NDArray[np.uint8]) -> None:
        """Check the bytes of a file.

        Raises:
            OtherVectorsError: it is an index of other vectors.
            ValueError: a field, a size or an id is another, or a centroid is not finite.
        """
        header = np.dtype([(name, kind) for name, (kind, _) in self._fields.items()])
        codes = -(-self.words // _BLOCK) * _BLOCK * ((self.parts + 1) // 2)
        start = header.itemsize
        stop = start + 8 * self.words
        self._check_fields(data, header)
        if data.size != stop + 8 + codes:
            raise ValueError(f"{data.size} bytes, expected {stop + 8 + codes}")
        ids = data[start:stop].view("<i8")
        if not np.array_equal(ids, np.arange(self.words)):
            raise ValueError(f"ids {ids.min()} to {ids.max()}, expected 0, 1, ... {self.words - 1}")
        if (size := int(data[stop : stop + 8].view("<u8")[0])) != codes:
            raise ValueError(f"codes of {size} bytes, expected {codes}")

    def require(self, data: NDArray[np.uint8], where: str) -> None:
        """Refuse a file that is not of this layout.

        Raises:
            BundleError: naming the first fault.
        """
        try:
            self.check(data)
        except OtherVectorsError as error:
            raise BundleError(
                f"{where}: the FAISS index holds {error}",
                expected=f"{self.words} of width {self.width}",
                remedy=BUILD_AGAIN,
            ) from None
        except ValueError as error:
            raise BundleError(
                f"{where}: faiss is not given its file, as fuse_index cannot read it ({error})",
                remedy=BUILD_AGAIN,
            ) from None

    def _check_fields(self, data: NDArray[np.uint8], header: np.dtype[Any]) -> None:
        if data.size < header.itemsize:
            raise ValueError(f"{data.size} bytes, expected at least {header.itemsize}")
        found = data[: header.itemsize].view(header)[0]
        for name, (_, expected) in self._fields.items():
            value = found[name].tolist()
            if name == "width" and [value, found["vectors"]] != [self.width, self.words]:
                raise OtherVectorsError(f"{found['vectors']} vectors of width {value}")
            if expected is None:
                if not bool((np.abs(found[name]) <= MAX_MAGNITUDE).all()):
                    raise ValueError(f"{name} that are not finite")
            elif value != expected:
                raise ValueError(f"{name} {value!r}, expected {expected!r}")

    @cached_property
    def _fields(self) -> dict[str, tuple[Any, Any]]:
        """Dtype and value of every field before the ids, in order; ``None`` is any number."""
        inner = self.metric is not Metric.L2
        kind, flat = (0, b"IxFI") if inner else (1, b"IxF2")
        code = (self.parts + 1) // 2
        return {
            "format": ("S4", b"IwPf"),
            **_vectors("", self.width, self.words, kind),
            "lists": ("<u8", 1),
            "probes": ("<u8", 1),
            "quantizer": ("S4", flat),
            **_vectors("quantizer's ", self.width, 1, kind),
            "quantizer's size": ("<u8", self.width),
            "quantizer's values": (f"({self.width},)<f4", None),
            "map": ("u1", 0),
            "map's size": ("<u8", 0),
            "residual": ("u1", 0),
            "code size": ("<u8", code),
            "block": ("<i4", _BLOCK),
            "even parts": ("<u8", 2 * code),
            "implementation": ("<i4", 0),
            "batches": ("<u8", 0),
            "codebooks' width": ("<u8", self.width),
            "codebooks' parts": ("<u8", self.parts),
            "codebooks' bits": ("<u8", 4),
            "codebooks' size": ("<u8", self.width * _CODEWORDS),
            "codebooks": (f"({self.width * _CODEWORDS},)<f4", None),
            "list format": ("S4", b"ilbl"),
            "list count": ("<u8", 1),
            "list's code size": ("<u8", _PACKED),
            "list's block": ("<u8", _BLOCK),
            "list's block size": ("<u8", _BLOCK * code),
            "list's ids": ("<u8", self.words),
        }


def _vectors(name: str, width: int, count: int, metric: int) -> dict[str, tuple[Any, Any]]:
    """Return the fields that every FAISS index begins with."""
    return {
        f"{name}width": ("<i4", width),
        f"{name}vectors": ("<i8", count),
        f"{name}reserved": ("(2,)<i8", [_RESERVED, _RESERVED]),
        f"{name}trained": ("u1", 1),
        f"{name}metric": ("<i4", metric),
    }
