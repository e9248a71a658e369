"""``groups.safetensors``: the third-order tensors of every group, written and read piece by piece.

They take gigabytes for a large vocabulary, so neither direction holds more than a chunk in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.files import CheckedFile
from fuse_index.bundle.layout import FALLBACK, GROUPS, MAX_TOKENS, parse_group
from fuse_index.bundle.manifest import GroupRecord, Manifest
from fuse_index.bundle.tensorfile import TensorEntry, TensorSource, TensorSpec
from fuse_index.bundle.tensors import (
    TORCH_DTYPES,
    Vectors,
    as_tensor,
    dtype_name,
    require_finite,
    require_finite_tensor,
    same_dtype,
    tensor_bytes,
)
from fuse_index.bundle.wordfile import assign_groups, group_position
from fuse_index.common.progress import Add, ignore
from fuse_index.errors import BundleError, OptionError, ShapeError
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import Blocks, WordTable

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
        return TensorSource(spec, lambda: map(self._bytes, self.chunks()))

    def _bytes(self, chunk: Tensor) -> memoryview:
        require_finite_tensor(chunk, f"group tensor {self.name!r}", "mend the embeddings")
        return tensor_bytes(chunk)


def embed_groups(
    table: Blocks,
    names: Sequence[str],
    source_embeddings: Vectors,
    target_embeddings: Vectors,
) -> list[GroupTensor]:
    """Describe the group tensors of a word table; nothing is computed before they are written.

    Args:
        table: the words, in memory or not.
        names: group names as the manifest will hold them
            (:func:`~fuse_index.bundle.layout.order_groups`).
        source_embeddings: (source vocabulary, source width); or the group tensors of a bundle,
            with positions in them instead of token ids (:meth:`GroupReader.vectors`).
        target_embeddings: (target vocabulary, target width), likewise.

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
    embeddings: Vectors,
) -> GroupTensor:
    name, n, k = group
    width = int(embeddings.shape[1])
    step = max(1, _CHUNK_BYTES // (k * width * embeddings.dtype.itemsize))

    def chunks() -> Iterator[Tensor]:
        import torch  # noqa: PLC0415 - reading manifests and words works without it

        for block in table.blocks():
            rows = rows_of(block)
            ids: Ragged = getattr(block, side)
            for start in range(0, len(rows), step):
                padded = torch.from_numpy(ids.select(rows[start : start + step]).padded(k))
                padded = padded.to(embeddings.device)
                values = embeddings[padded.clamp(min=0)]  # (m, k, width)
                yield values.detach().masked_fill_(padded[..., None] < 0, 0)

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
    """The group tensors of a bundle, read from the disk on access.

    The file's checksum is verified on opening, shapes and dtypes too; values are checked for NaN
    and infinity as they are read.

    Args:
        root: the bundle's folder.
        manifest: its manifest, which lists ``groups.safetensors``.
        report: called with the bytes checked since the last call.

    Raises:
        BundleError: the file is damaged or does not fit the manifest.
    """

    def __init__(self, root: Path, manifest: Manifest, report: Add = ignore) -> None:
        if GROUPS not in manifest.files:
            raise BundleError(
                f"{root} holds no group tensors (built with --no-groups)",
                remedy="build or pull it again without --no-groups",
            )
        self._file = CheckedFile(root, GROUPS, manifest.files[GROUPS], report)
        self._where, self._entries = self._file.where, self._file.entries
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
        data = np.frombuffer(self._file.read(entry.start, entry.spec.size), dtype=np.uint8)
        require_finite(entry.spec, data, self._where)
        return as_tensor(entry.spec, data)

    def chunks(self, name: str, words: int = 4096) -> Iterator[Tensor]:
        """Read one tensor ``words`` rows at a time: (at most words, k, width) each."""
        for spec, data in self._pieces(name, words):
            yield as_tensor(spec, data)

    def verify(self, report: Add = ignore) -> None:
        """Read every value once and check that it is finite.

        Args:
            report: called with the bytes read since the last call.

        Raises:
            BundleError: naming the first tensor that holds NaN or infinity.
        """
        for name, entry in self._entries.items():
            row = max(1, entry.spec.size // max(1, entry.spec.shape[0]))
            for _, data in self._pieces(name, max(1, _CHUNK_BYTES // row)):
                report(data.nbytes)

    def vectors(self, side: str) -> GroupVectors:
        """Return all vectors of one side's tensors as one matrix, read when picked.

        Args:
            side: "source" or "target".
        """
        entries = [entry for name, entry in self._entries.items() if name.startswith(f"{side}.")]
        return GroupVectors(self._file, sorted(entries, key=lambda e: e.spec.name))

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._file.close()

    def _pieces(self, name: str, words: int) -> Iterator[tuple[TensorSpec, NDArray[np.uint8]]]:
        entry = self._entry(name)
        n, k, width = entry.spec.shape
        row = entry.spec.size // n if n else 0
        for start in range(0, n, words):
            count = min(words, n - start)
            spec = TensorSpec(name, entry.spec.dtype, (count, k, width))
            raw = self._file.read(entry.start + start * row, count * row)
            data = np.frombuffer(raw, dtype=np.uint8)
            require_finite(spec, data, self._where)
            yield spec, data

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._entries:
            raise OptionError(f"group tensor {name!r}", expected=f"one of {sorted(self._entries)}")
        return self._entries[name]

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
        for side in widths:
            specs = [e.spec for name, e in self._entries.items() if name.startswith(f"{side}.")]
            if problem := same_dtype(specs):
                raise BundleError(
                    f"{self._where}: {side} {problem}", expected="one dtype", remedy=_FETCH_AGAIN
                )


class GroupVectors:
    """The vectors of some group tensors as the rows of one matrix, on the CPU.

    Vector ``t`` of word ``i`` of a tensor (n, k, width) is row ``first(name) + i * k + t``. Only
    the rows that are picked are read, and they are checked for NaN and infinity.

    Args:
        file: that holds them.
        entries: the tensors, of one dtype and width.
    """

    def __init__(self, file: CheckedFile, entries: Sequence[TensorEntry]) -> None:
        import torch  # noqa: PLC0415 - reading manifests and words works without it

        counts = [entry.spec.shape[0] * entry.spec.shape[1] for entry in entries]
        self._firsts = np.cumsum([0, *counts])
        self._starts = np.array([entry.start for entry in entries])
        self._specs = {entry.spec.name: entry.spec for entry in entries}
        self._file = file
        self._name = entries[0].spec.dtype
        self.shape = (int(self._firsts[-1]), entries[0].spec.shape[2])
        self.dtype: torch.dtype = getattr(torch, TORCH_DTYPES[self._name])
        self.device = torch.device("cpu")

    def first(self, name: str) -> tuple[int, int]:
        """Return the first row of a tensor, and its tube length ``k``."""
        index = [*self._specs].index(name)
        return int(self._firsts[index]), self._specs[name].shape[1]

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Read rows: int64 (...) to (..., width)."""
        rows, inverse = np.unique(ids.numpy().reshape(-1), return_inverse=True)
        spec = TensorSpec("rows", self._name, (len(rows), self.shape[1]))
        size = spec.size // max(1, len(rows))
        tensors = np.searchsorted(self._firsts, rows, side="right") - 1
        positions = self._starts[tensors] + (rows - self._firsts[tensors]) * size
        cuts = np.flatnonzero(np.diff(positions) != size) + 1
        runs = zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True)
        values = np.empty(spec.size, np.uint8)
        for a, b in runs:
            self._file.fill(int(positions[a]), values[a * size : b * size].data)
        require_finite(spec, values, self._file.where)
        picked = as_tensor(spec, values)[inverse.reshape(-1)]
        return picked.view(*ids.shape, self.shape[1])


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
