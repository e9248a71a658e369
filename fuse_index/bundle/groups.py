"""``groups.safetensors``: the third-order tensors of every group, written and read piece by piece.

They take gigabytes for a large vocabulary, so neither direction holds more than a chunk in memory.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.files import check_member
from fuse_index.bundle.layout import FALLBACK, GROUPS, MAX_TOKENS, parse_group
from fuse_index.bundle.manifest import GroupRecord, Manifest
from fuse_index.bundle.tensorfile import (
    TensorEntry,
    TensorSource,
    TensorSpec,
    header_length,
    parse_header,
)
from fuse_index.bundle.tensors import (
    TORCH_DTYPES,
    as_tensor,
    dtype_name,
    require_finite,
    tensor_bytes,
)
from fuse_index.bundle.wordfile import Blocks, assign_groups, group_position
from fuse_index.errors import BundleError, OptionError, ShapeError
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FETCH_AGAIN = "fetch or build the bundle again"
_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True)
class GroupTensor:
    """A third-order tensor of one group that is made piece by piece while it is written.

    Attributes:
        name: ``source.{group}`` or ``target.{group}``.
        shape: (n, k, width): words of the group in table order, tube length, embedding width.
        dtype: floating dtype of every chunk.
        chunks: called once per write; yields tensors (m, k, width) that make up the n words.
    """

    name: str
    shape: tuple[int, int, int]
    dtype: torch.dtype
    chunks: Callable[[], Iterable[Tensor]]

    def source(self) -> TensorSource:
        """Return this tensor as bytes to be written."""
        spec = TensorSpec(self.name, dtype_name(self.dtype, self.name), self.shape)
        return TensorSource(spec, lambda: (tensor_bytes(chunk) for chunk in self.chunks()))


def embed_groups(
    table: Blocks,
    names: Sequence[str],
    source_embeddings: Tensor,
    target_embeddings: Tensor,
) -> list[GroupTensor]:
    """Describe the group tensors of a word table; nothing is computed before they are written.

    Args:
        table: the words, in memory or not.
        names: group names as the manifest will hold them
            (:func:`~fuse_index.bundle.layout.order_groups`).
        source_embeddings: (source vocabulary, source width).
        target_embeddings: (target vocabulary, target width).

    Returns:
        ``source.{group}`` and ``target.{group}`` for every group: (n, k, width), the words of the
        group in table order, zero-padded to ``k``, the most tokens of any word of the group in
        either model.
    """
    words, tubes = [0] * len(names), [parse_group(name).smallest_tube for name in names]
    for (p, q), count in table.sizes().items():
        index = group_position(names, p, q)
        words[index] += count
        tubes[index] = max(tubes[index], p, q)
    return [
        _embedded(side, table, partial(_rows_of, names, index), (name, count, k), embeddings)
        for index, (name, count, k) in enumerate(zip(names, words, tubes, strict=True))
        for side, embeddings in (("source", source_embeddings), ("target", target_embeddings))
    ]


def _rows_of(names: Sequence[str], index: int, block: WordTable) -> NDArray[np.int64]:
    """The words of a group in a part of a table."""
    return np.flatnonzero(assign_groups(block, names) == index)


def _embedded(
    side: str,
    table: Blocks,
    rows_of: Callable[[WordTable], NDArray[np.int64]],
    group: tuple[str, int, int],
    embeddings: Tensor,
) -> GroupTensor:
    name, n, k = group
    width = int(embeddings.shape[1])
    step = max(1, _CHUNK_BYTES // (k * width * embeddings.element_size()))

    def chunks() -> Iterator[Tensor]:
        import torch  # noqa: PLC0415 - reading manifests and words works without it

        for block in table.blocks():
            rows = rows_of(block)
            ids: Ragged = getattr(block, side)
            for start in range(0, len(rows), step):
                padded = torch.from_numpy(ids.select(rows[start : start + step]).padded(k))
                padded = padded.to(embeddings.device)
                values = embeddings.detach()[padded.clamp(min=0)]  # (m, k, width)
                yield values.masked_fill_(padded[..., None] < 0, 0)

    return GroupTensor(f"{side}.{name}", (n, k, width), embeddings.dtype, chunks)


def group_sources(
    tensors: Iterable[GroupTensor], groups: Sequence[GroupRecord], widths: dict[str, int]
) -> list[TensorSource]:
    """Check group tensors against the groups they belong to and lay them out to be written.

    Args:
        tensors: both sides of every group.
        groups: the manifest's groups.
        widths: embedding width by side, "source" and "target".

    Raises:
        ShapeError: one is missing, unknown, or has a shape or dtype that does not fit.
    """
    sources = {tensor.name: tensor.source() for tensor in tensors}
    expected = _expected(groups, widths)
    if set(sources) != set(expected):
        raise ShapeError(f"group tensors {sorted(sources)}", expected=f"exactly {sorted(expected)}")
    for name, (words, group, width) in expected.items():
        if problem := _problem(sources[name].spec, words, group, width):
            raise ShapeError(f"group tensor {name!r} {problem}")
    return list(sources.values())


class GroupReader:
    """The group tensors of a bundle, read from the disk when asked for.

    The file's checksum is verified on opening, shapes and dtypes too; values are checked for NaN
    and infinity as they are read.

    Args:
        root: the bundle's folder.
        manifest: its manifest, which lists ``groups.safetensors``.
        report: called with the bytes checked since the last call.

    Raises:
        BundleError: the file is damaged or does not fit the manifest.
    """

    def __init__(
        self, root: Path, manifest: Manifest, report: Callable[[int], None] | None = None
    ) -> None:
        self._where = str(root / GROUPS)
        record = manifest.files[GROUPS]
        reports = () if report is None else (report,)
        self._descriptor = check_member(root, GROUPS, record, *reports)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        length = header_length(self._read(0, min(8, record.size)), record.size, self._where)
        self._entries = parse_header(self._read(8, length), record.size, self._where)
        self._check(manifest)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(n, k, width) by tensor name, ``source.{group}`` and ``target.{group}``."""
        return {name: entry.spec.shape for name, entry in self._entries.items()}

    def load(self, name: str) -> Tensor:
        """Read one tensor.

        Args:
            name: a key of :attr:`shapes`.

        Returns:
            (n, k, width) in memory.

        Raises:
            BundleError: it cannot be read or holds NaN or infinity.
            OptionError: there is no such tensor.
        """
        entry = self._entry(name)
        data = np.frombuffer(bytearray(self._read(entry.start, entry.spec.size)), dtype=np.uint8)
        require_finite(entry.spec, data, self._where)
        return as_tensor(entry.spec, data)

    def chunks(self, name: str, words: int = 4096) -> Iterator[Tensor]:
        """Read one tensor ``words`` rows at a time: (at most words, k, width) each."""
        for spec, data in self._pieces(name, words):
            yield as_tensor(spec, data)

    def verify(self, report: Callable[[int], None] | None = None) -> None:
        """Read every value once and check that it is finite.

        Args:
            report: called with the bytes read since the last call.

        Raises:
            BundleError: naming the first tensor that holds NaN or infinity.
        """
        for name, entry in self._entries.items():
            row = max(1, entry.spec.size // max(1, entry.spec.shape[0]))
            for _, data in self._pieces(name, max(1, _CHUNK_BYTES // row)):
                if report is not None:
                    report(data.nbytes)

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._close()

    def _pieces(self, name: str, words: int) -> Iterator[tuple[TensorSpec, NDArray[np.uint8]]]:
        entry = self._entry(name)
        n, k, width = entry.spec.shape
        row = entry.spec.size // n if n else 0
        for start in range(0, n, words):
            count = min(words, n - start)
            spec = TensorSpec(name, entry.spec.dtype, (count, k, width))
            raw = bytearray(self._read(entry.start + start * row, count * row))
            data = np.frombuffer(raw, dtype=np.uint8)
            require_finite(spec, data, self._where)
            yield spec, data

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._entries:
            raise OptionError(f"group tensor {name!r}", expected=f"one of {sorted(self._entries)}")
        return self._entries[name]

    def _read(self, start: int, size: int) -> bytes:
        if not self._close.alive:
            raise OptionError(f"{self._where} was closed", expected="an open bundle")
        parts: list[bytes] = []
        try:
            while size > 0 and (part := os.pread(self._descriptor, size, start)):
                parts.append(part)
                start, size = start + len(part), size - len(part)
        except OSError as error:
            raise BundleError(f"{self._where} cannot be read ({error})") from None
        if size > 0:
            raise BundleError(f"{self._where} was truncated while it was in use")
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def _check(self, manifest: Manifest) -> None:
        widths = {"source": manifest.source.width, "target": manifest.target.width}
        expected = _expected(manifest.groups, widths)
        if set(self._entries) != set(expected):
            raise BundleError(
                f"{self._where} has tensors {sorted(self._entries)}",
                expected=f"{sorted(expected)} by the manifest",
                remedy=_FETCH_AGAIN,
            )
        for name, (words, group, width) in expected.items():
            if problem := _problem(self._entries[name].spec, words, group, width):
                raise BundleError(f"{self._where}: tensor {name!r} {problem}", remedy=_FETCH_AGAIN)


def _expected(
    groups: Sequence[GroupRecord], widths: dict[str, int]
) -> dict[str, tuple[int, str, int]]:
    return {
        f"{side}.{group.name}": (group.words, group.name, width)
        for group in groups
        for side, width in widths.items()
    }


def _problem(spec: TensorSpec, words: int, group: str, width: int) -> str:
    key, shape = parse_group(group), spec.shape
    if len(shape) != 3 or shape[0] != words or shape[2] != width:
        return f"has shape {shape}, expected ({words}, k, {width})"
    k = shape[1]
    most = key.smallest_tube if key.tube_is_fixed and group != FALLBACK else MAX_TOKENS
    if not key.smallest_tube <= k <= most:
        return f"has tube length {k}, expected {key.smallest_tube} to {most}"
    if spec.dtype not in TORCH_DTYPES:
        return f"has dtype {spec.dtype}, expected one of {[*TORCH_DTYPES]}"
    return ""
