"""Torch tensors in and out of bundles; ``adapter.safetensors``, checked by name and shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.kinds import (
    FACES,
    FIELDS,
    fields_problem,
    has_faces,
    tensor_names,
    tube_length,
)
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
_ADAPTER_PREFIX = f"{FACES}."


class AdapterTensors(NamedTuple):
    """The tensors of ``adapter.safetensors``, in the manifest's order.

    Attributes:
        faces: ``(k, source width, target width)`` by group, of maps that are t-products.
        maps: by group and name, the other tensors of its map
            (:data:`~fuse_index.bundle.kinds.FIELDS`).
    """

    faces: dict[str, Tensor]
    maps: dict[str, dict[str, Tensor]]


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
    adapters: Mapping[str, Tensor],
    maps: Mapping[str, Mapping[str, Tensor]],
    manifest: Manifest,
) -> list[TensorSource]:
    """Check adapter tensors and lay them out as ``adapter.{group}``, and those of other maps.

    Args:
        adapters: (k, source width, target width) by group name.
        maps: the other tensors of a group's map by name, by group name.
        manifest: of the bundle: widths, groups and their kinds.

    Raises:
        ShapeError: a shape, dtype or tube length does not fit, dtypes differ, or a value is not
            finite.
    """
    tensors = {_ADAPTER_PREFIX + name: tensor for name, tensor in adapters.items()}
    for group, own in maps.items():
        tensors |= {f"{name}.{group}": tensor for name, tensor in own.items()}
    specs = {
        name: TensorSpec(name, dtype_name(tensor.dtype, name), (*tensor.shape,))
        for name, tensor in tensors.items()
    }
    if found := _problem(specs, manifest):
        name, problem = found
        field, _, group = name.partition(".")
        raise ShapeError(f"{field} {group!r} {problem}" if name else f"adapters: {problem}")
    for name, tensor in tensors.items():
        field, _, group = name.partition(".")
        require_finite_tensor(tensor, f"{field} {group!r}", "raise ridge", _most(name, manifest))
    return [TensorSource(specs[name], partial(_whole, own)) for name, own in tensors.items()]


def _whole(tensor: Tensor) -> list[memoryview]:
    return [tensor_bytes(tensor)]


def parse_adapter(
    data: NDArray[np.uint8], manifest: Manifest, entries: Iterable[tuple[str, TensorEntry]]
) -> AdapterTensors:
    """Return the tensors of ``adapter.safetensors``.

    Args:
        data: the whole file; the tensors share its memory.
        manifest: of the bundle.
        entries: as :func:`adapter_entries` checked them.
    """
    tensors = {n: as_tensor(entry.spec, data[entry.start : entry.stop]) for n, entry in entries}
    faces, maps = {}, {}
    for group in manifest.group_names:
        kind = manifest.kind_of(group)
        if has_faces(kind):
            faces[group] = tensors[_ADAPTER_PREFIX + group]
        if FIELDS[kind]:
            maps[group] = {name: tensors[f"{name}.{group}"] for name in FIELDS[kind]}
    return AdapterTensors(faces, maps)


def adapter_entries(
    data: NDArray[np.uint8], manifest: Manifest, where: str
) -> list[tuple[str, TensorEntry]]:
    """Check the bytes of ``adapter.safetensors``, without making torch tensors.

    Args:
        data: the whole file, checksum already verified.
        manifest: of the bundle.
        where: the file, for messages.

    Returns:
        Names and entries of the tensors.

    Raises:
        BundleError: names, shapes or dtypes do not fit the manifest, or a value is not finite.
    """
    entries = parse_file(data, where)
    if found := _problem({name: entry.spec for name, entry in entries.items()}, manifest):
        name, problem = found
        what = f"tensor {name!r} {problem}" if name else problem
        raise BundleError(f"{where}: {what}", remedy=_FETCH_AGAIN)
    for name, entry in entries.items():
        own = data[entry.start : entry.stop]
        require_finite(entry.spec, own, where, _most(name, manifest))
    return [*entries.items()]


def tube_lengths(specs: Mapping[str, TensorSpec], manifest: Manifest) -> list[int]:
    """Return the most tokens of a word that the map of every group serves, of either model.

    Args:
        specs: of ``adapter.safetensors``, by name.
        manifest: of the bundle.
    """
    found = []
    for group in manifest.group_names:
        kind = manifest.kind_of(group)
        if has_faces(kind):
            found.append(specs[_ADAPTER_PREFIX + group].shape[0])
        else:
            name = next(n for n, field in FIELDS[kind].items() if "S" in field.shape)
            entries = specs[f"{name}.{group}"].shape[FIELDS[kind][name].shape.index("S")]
            found.append(tube_length(group, entries, manifest.source.width))
    return found


def _most(name: str, manifest: Manifest) -> float:
    """The largest absolute value that a tensor of ``adapter.safetensors`` may hold."""
    field, _, group = name.partition(".")
    return MAX_MAGNITUDE if field == FACES else FIELDS[manifest.kind_of(group)][field].most


def as_tensor(spec: TensorSpec, data: NDArray[np.uint8]) -> Tensor:
    """View checked bytes as a torch tensor that shares their memory."""
    import torch  # noqa: PLC0415 - reading manifests and words works without it

    return torch.from_numpy(data).view(getattr(torch, TORCH_DTYPES[spec.dtype])).reshape(spec.shape)


def _problem(specs: Mapping[str, TensorSpec], manifest: Manifest) -> tuple[str, str] | None:
    """Return what is wrong with the tensors of ``adapter.safetensors``, and of which, if of one."""
    wanted = {
        f"{name}.{group}"
        for group in manifest.group_names
        for name in tensor_names(manifest.kind_of(group))
    }
    if set(specs) != wanted:
        return "", f"has tensors {sorted(specs)}; expected {sorted(wanted)} by the manifest"
    widths = manifest.source.width, manifest.target.width
    for group in manifest.group_names:
        kind = manifest.kind_of(group)
        if has_faces(kind):
            spec = specs[_ADAPTER_PREFIX + group]
            if problem := _faces_problem(spec, group, *widths):
                return spec.name, problem
        shapes = {name: specs[f"{name}.{group}"].shape for name in FIELDS[kind]}
        if found := fields_problem(kind, group, shapes, widths):
            name, problem = found
            return f"{name}.{group}", problem
    for spec in specs.values():
        if spec.dtype not in TORCH_DTYPES:
            return spec.name, f"has dtype {spec.dtype}, expected one of {[*TORCH_DTYPES]}"
    if problem := same_dtype(specs.values()):
        return "", f"{problem}; expected one dtype"
    return None


def _faces_problem(spec: TensorSpec, group: str, source_width: int, target_width: int) -> str:
    key = parse_group(group)
    if len(spec.shape) != 3 or spec.shape[1:] != (source_width, target_width):
        return f"has shape {spec.shape}, expected (k, {source_width}, {target_width})"
    k = spec.shape[0]
    if key.tube_is_fixed and k != key.smallest_tube:
        return f"has tube length {k}, expected {key.smallest_tube}"
    if not key.smallest_tube <= k <= MAX_TOKENS:
        return f"has tube length {k}, expected {key.smallest_tube} to {MAX_TOKENS}"
    return ""


def require_finite(
    spec: TensorSpec, data: NDArray[np.uint8], where: str, most: float = MAX_MAGNITUDE
) -> None:
    """Refuse a tensor with NaN, infinity, or values whose products overflow float32.

    Args:
        spec: of the tensor.
        data: its bytes.
        where: the file, for messages.
        most: largest absolute value.

    Raises:
        BundleError: naming the file and the tensor.
    """
    values = as_array(spec, data)
    if not all_finite(spec, values, most):
        found = f"values beyond {most:g}" if all_finite(spec, values) else "NaN or infinity"
        raise BundleError(
            f"{where}: tensor {spec.name!r} holds {found}",
            remedy=_FETCH_AGAIN,
        )


def require_finite_tensor(
    tensor: Tensor, what: str, remedy: str, most: float = MAX_MAGNITUDE
) -> None:
    """Refuse to write what :func:`require_finite` would not read.

    Raises:
        ShapeError: naming the tensor.
    """
    import torch  # noqa: PLC0415 - reading manifests and words works without it

    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if not largest <= most:
        finite = bool(torch.isfinite(tensor).all())
        raise ShapeError(
            f"{what} holds {f'values beyond {most:g}' if finite else 'NaN or infinity'}",
            expected="finite values",
            remedy=remedy,
        )


def same_dtype(specs: Iterable[TensorSpec]) -> str:
    """Return what is wrong where tensors that belong together have several dtypes, else ""."""
    dtypes = sorted({spec.dtype for spec in specs})
    return f"tensors of dtypes {', '.join(dtypes)}" if len(dtypes) > 1 else ""
