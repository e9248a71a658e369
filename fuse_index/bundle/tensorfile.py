"""The safetensors format: a writer that streams, and a strict parser of the header.

The library's own writer wants all tensors in memory and orders ``__metadata__`` by a random hash;
bundles must stream gigabytes and have the same bytes for the same content. The files are plain
safetensors: 8 bytes little-endian header length, JSON header, tensors one after another.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.jsontext import load_strict
from fuse_index.bundle.layout import MAX_HEADER_BYTES
from fuse_index.errors import BundleError

ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1}
_NUMPY = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}
_MAX_DIMENSIONS = 8
_FETCH_AGAIN = "fetch or build the bundle again"
_FINITE_CHUNK = 1 << 20

Buffer = bytes | bytearray | memoryview


class ByteSink(Protocol):
    """Anything bytes can be written to."""

    def write(self, data: Any, /) -> Any:
        """Take the next bytes."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a stored tensor.

    Attributes:
        name: key in the file.
        dtype: safetensors' name, a key of :data:`ITEM_BYTES`.
        shape: dimensions.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensor's values."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class TensorSource:
    """A tensor to be written: its spec and a function that yields its bytes in order."""

    spec: TensorSpec
    chunks: Callable[[], Iterable[Buffer]]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor found in a file: its spec and where its bytes begin in the file."""

    spec: TensorSpec
    start: int

    @property
    def stop(self) -> int:
        """Where its bytes end in the file."""
        return self.start + self.spec.size


def encode_header(specs: Sequence[TensorSpec]) -> tuple[bytes, tuple[int, ...]]:
    """Lay out a file.

    Args:
        specs: the tensors, names distinct.

    Returns:
        The bytes before the first tensor, and the order in which the tensors follow: the widest
        dtype first so that every tensor is aligned, then by name.
    """
    order = tuple(
        sorted(range(len(specs)), key=lambda i: (-ITEM_BYTES[specs[i].dtype], specs[i].name))
    )
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for spec in (specs[i] for i in order):
        stop = start + spec.size
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, order


def file_size(specs: Sequence[TensorSpec]) -> int:
    """Bytes of the file that :func:`write_tensors` makes of these tensors."""
    return len(encode_header(specs)[0]) + sum(spec.size for spec in specs)


def write_tensors(sink: ByteSink, sources: Sequence[TensorSource]) -> None:
    """Write a safetensors file, one chunk in memory at a time.

    Args:
        sink: receives the bytes.
        sources: the tensors in any order; equal tensors give equal bytes.

    Raises:
        ValueError: a source yields more or fewer bytes than its spec says; a bug of the caller.
    """
    header, order = encode_header([source.spec for source in sources])
    sink.write(header)
    for source in (sources[i] for i in order):
        written = 0
        for chunk in source.chunks():
            sink.write(chunk)
            written += memoryview(chunk).nbytes
        if written != source.spec.size:
            raise ValueError(f"{source.spec} was given {written} bytes, not {source.spec.size}")


def header_length(prefix: Buffer, size: int, where: str) -> int:
    """Read the 8-byte header length of a file of ``size`` bytes.

    Raises:
        BundleError: the file is too short, or the length is not sane.
    """
    length = struct.unpack("<Q", bytes(prefix[:8]))[0] if len(prefix) >= 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8) or length % 8:
        raise BundleError(
            f"{where} has a header length of {length} in a file of {size} bytes",
            expected=f"a multiple of 8, at most {min(MAX_HEADER_BYTES, max(size - 8, 0))}",
            remedy=_FETCH_AGAIN,
        )
    return int(length)


def parse_file(data: NDArray[np.uint8], where: str) -> dict[str, TensorEntry]:
    """Parse the header of a whole file in memory; see :func:`parse_header`."""
    length = header_length(data[:8].tobytes(), data.size, where)
    return parse_header(data[8 : 8 + length].tobytes(), data.size, where)


def parse_header(text: Buffer, size: int, where: str) -> dict[str, TensorEntry]:
    """Parse a header strictly.

    Args:
        text: the header, without the 8 bytes before it.
        size: bytes of the whole file.
        where: the file, for messages.

    Returns:
        Entries by name. Their bytes are aligned and cover the rest of the file exactly, without
        gaps or overlaps.

    Raises:
        BundleError: anything else.
    """
    value = load_strict(text, f"{where}: header")
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(type(item) is not str for item in metadata.values()):
        raise BundleError(f"{where}: __metadata__ is not a map of text", remedy=_FETCH_AGAIN)
    data = 8 + len(text)
    entries = [_parse_entry(name, item, data, where) for name, item in value.items()]
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    position = data
    for entry in entries:
        if entry.start != position:
            raise _entry_error(where, entry.spec.name, "bytes overlap or leave a gap")
        position = entry.stop
    if position != size:
        raise BundleError(
            f"{where} has {size} bytes but its tensors end at {position}", remedy=_FETCH_AGAIN
        )
    return {entry.spec.name: entry for entry in entries}


def _parse_entry(name: str, item: Any, data: int, where: str) -> TensorEntry:
    if not isinstance(item, Mapping) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise _entry_error(where, name, "has other keys than dtype, shape and data_offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _entry_error(where, name, f"has dtype {dtype!r}, expected one of {[*ITEM_BYTES]}")
    if not _is_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _entry_error(where, name, "has a malformed shape")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise _entry_error(where, name, "has malformed data_offsets")
    spec = TensorSpec(name, dtype, tuple(shape))
    if offsets[1] - offsets[0] != spec.size:
        raise _entry_error(
            where, name, f"has {offsets[1] - offsets[0]} bytes, its shape needs {spec.size}"
        )
    if offsets[0] % ITEM_BYTES[dtype]:
        raise _entry_error(where, name, "is not aligned to its dtype")
    return TensorEntry(spec, data + offsets[0])


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 1 << 48 for item in value
    )


def _entry_error(where: str, name: str, problem: str) -> BundleError:
    return BundleError(f"{where}: tensor {name!r} {problem}", remedy=_FETCH_AGAIN)


def as_array(spec: TensorSpec, data: NDArray[np.uint8]) -> NDArray[Any]:
    """View the bytes of one tensor as an array of its shape; BF16 as the uint16 of its bits."""
    return data.view(_NUMPY[spec.dtype]).reshape(spec.shape)


def all_finite(spec: TensorSpec, values: NDArray[Any], most: float = math.inf) -> bool:
    """Whether a floating tensor holds no NaN, no infinity, and nothing beyond ``most``.

    Args:
        spec: of the tensor.
        values: as :func:`as_array` returns it.
        most: largest absolute value.
    """
    flat = values.reshape(-1)
    for start in range(0, flat.size, _FINITE_CHUNK):
        chunk = flat[start : start + _FINITE_CHUNK]
        if spec.dtype == "BF16":
            chunk = (chunk.astype(np.uint32) << 16).view(np.float32)
        bound = min(most, float(np.finfo(chunk.dtype).max))
        if not -bound <= float(chunk.min()) <= float(chunk.max()) <= bound:  # false for NaN, too
            return False
    return True
