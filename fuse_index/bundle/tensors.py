"""Torch tensors in and out of bundles; ``adapter.safetensors``, checked by name and shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.layout import MAX_MAGNITUDE, MAX_TOKENS, parse_group
from fuse_index.bundle.manifest import Manifest
from fuse_index.bundle.tensorfile import (
    TensorEntry,
    TensorSource,
    TensorSpec,
    all_finite,
    as_array,
    parse_file,
)
from fuse_index.errors import BundleError, ShapeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SAFETENSORS = {f"torch.{torch_name}": name for name, torch_name in TORCH_DTYPES.items()}
_FETCH_AGAIN = "fetch or build the bundle again"
_ADAPTER_PREFIX = "adapter."
_BEYOND = f"values beyond {MAX_MAGNITUDE:g}"


class Vectors(Protocol):
    """Vectors of one model that words pick theirs from: its embedding table, or tensors in a file.

    A torch matrix is one; see also :class:`~fuse_index.bundle.groups.GroupVectors`.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(vectors, width)."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating."""

    @property
    def device(self) -> torch.device:
        """Where the vectors that are picked lie."""

    def __getitem__(self, ids: Tensor, /) -> Tensor:
        """Pick vectors: int64 (...) to (..., width)."""


def dtype_name(dtype: torch.dtype, what: str) -> str:
    """Return safetensors' name of a floating dtype.

    Raises:
        ShapeError: the dtype is not one a bundle holds.
    """
    if str(dtype) not in _SAFETENSORS:
        raise ShapeError(
            f"{what} has dtype {dtype}", expected="float16, bfloat16, float32 or float64"
        )
    return _SAFETENSORS[str(dtype)]


def tensor_bytes(tensor: Tensor) -> memoryview:
    """View a tensor's values as bytes in row-major order, copying only what must be."""
    import torch  # noqa: PLC0415 - reading manifests and words works without it

    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def adapter_sources(
    adapters: Mapping[str, Tensor], source_width: int, target_width: int
) -> list[TensorSource]:
    """Check adapter tensors and lay them out as ``adapter.{group}``.

    Args:
        adapters: (k, source_width, target_width) by group name.
        source_width: columns of the source's embedding table.
        target_width: columns of the target's embedding table.

    Raises:
        ShapeError: a shape, dtype or tube length does not fit, dtypes differ, or a value is not
            finite.
    """
    sources = []
    for name, tensor in adapters.items():
        spec = TensorSpec(_ADAPTER_PREFIX + name, dtype_name(tensor.dtype, name), (*tensor.shape,))
        if problem := _adapter_problem(spec, source_width, target_width):
            raise ShapeError(f"adapter {name!r} {problem}")
        require_finite_tensor(tensor, f"adapter {name!r}", "raise ridge")
        sources.append(TensorSource(spec, partial(_whole, tensor)))
    if problem := same_dtype(source.spec for source in sources):
        raise ShapeError(f"adapters: {problem}", expected="one dtype", remedy="convert them")
    return sources


def _whole(tensor: Tensor) -> list[memoryview]:
    return [tensor_bytes(tensor)]


def parse_adapter(data: NDArray[np.uint8], manifest: Manifest, where: str) -> dict[str, Tensor]:
    """Read and check the bytes of ``adapter.safetensors``.

    Args:
        data: the whole file, checksum already verified; the tensors share its memory.
        manifest: of the bundle.
        where: the file, for messages.

    Returns:
        (k, source width, target width) by group name, in the manifest's order.

    Raises:
        BundleError: names, shapes or dtypes do not fit the manifest, or a value is not finite.
    """
    entries = adapter_entries(data, manifest, where)
    return {name: as_tensor(entry.spec, data[entry.start : entry.stop]) for name, entry in entries}


def adapter_entries(
    data: NDArray[np.uint8], manifest: Manifest, where: str
) -> list[tuple[str, TensorEntry]]:
    """Check ``adapter.safetensors`` as :func:`parse_adapter` does, without making torch tensors."""
    entries = parse_file(data, where)
    names = {_ADAPTER_PREFIX + name for name in manifest.group_names}
    if set(entries) != names:
        raise BundleError(
            f"{where} has tensors {sorted(entries)}",
            expected=f"{sorted(names)} by the manifest",
            remedy=_FETCH_AGAIN,
        )
    for entry in entries.values():
        spec = entry.spec
        if problem := _adapter_problem(spec, manifest.source.width, manifest.target.width):
            raise BundleError(f"{where}: tensor {spec.name!r} {problem}", remedy=_FETCH_AGAIN)
        require_finite(spec, data[entry.start : entry.stop], where)
    if problem := same_dtype(entry.spec for entry in entries.values()):
        raise BundleError(f"{where}: {problem}", expected="one dtype", remedy=_FETCH_AGAIN)
    return [(name, entries[_ADAPTER_PREFIX + name]) for name in manifest.group_names]


def as_tensor(spec: TensorSpec, data: NDArray[np.uint8]) -> Tensor:
    """View checked bytes as a torch tensor that shares their memory."""
    import torch  # noqa: PLC0415 - reading manifests and words works without it

    return torch.from_numpy(data).view(getattr(torch, TORCH_DTYPES[spec.dtype])).reshape(spec.shape)


def _adapter_problem(spec: TensorSpec, source_width: int, target_width: int) -> str:
    key = parse_group(spec.name.removeprefix(_ADAPTER_PREFIX))
    if len(spec.shape) != 3 or spec.shape[1:] != (source_width, target_width):
        return f"has shape {spec.shape}, expected (k, {source_width}, {target_width})"
    k = spec.shape[0]
    if key.tube_is_fixed and k != key.smallest_tube:
        return f"has tube length {k}, expected {key.smallest_tube}"
    if not key.smallest_tube <= k <= MAX_TOKENS:
        return f"has tube length {k}, expected {key.smallest_tube} to {MAX_TOKENS}"
    if spec.dtype not in TORCH_DTYPES:
        return f"has dtype {spec.dtype}, expected one of {[*TORCH_DTYPES]}"
    return ""


def require_finite(spec: TensorSpec, data: NDArray[np.uint8], where: str) -> None:
    """Refuse a tensor with NaN, infinity, or values whose products overflow float32.

    Raises:
        BundleError: naming the file and the tensor.
    """
    values = as_array(spec, data)
    if not all_finite(spec, values, MAX_MAGNITUDE):
        finite = all_finite(spec, values)
        raise BundleError(
            f"{where}: tensor {spec.name!r} holds {_BEYOND if finite else 'NaN or infinity'}",
            remedy=_FETCH_AGAIN,
        )


def require_finite_tensor(tensor: Tensor, what: str, remedy: str) -> None:
    """Refuse to write what :func:`require_finite` would not read.

    Raises:
        ShapeError: naming the tensor.
    """
    import torch  # noqa: PLC0415 - reading manifests and words works without it

    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if not largest <= MAX_MAGNITUDE:
        finite = bool(torch.isfinite(tensor).all())
        raise ShapeError(
            f"{what} holds {_BEYOND if finite else 'NaN or infinity'}",
            expected="finite values",
            remedy=remedy,
        )


def same_dtype(specs: Iterable[TensorSpec]) -> str:
    """Return what is wrong where tensors that belong together have several dtypes, else ""."""
    dtypes = sorted({spec.dtype for spec in specs})
    return f"tensors of dtypes {', '.join(dtypes)}" if len(dtypes) > 1 else ""
