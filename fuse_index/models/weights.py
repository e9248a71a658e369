"""Weights as they are stored: their size, and single tensors of safetensors files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse_index.common.folders import visible_files
from fuse_index.errors import ModelError
from fuse_index.models.checkpoint import TransformersCheckpoint
from fuse_index.models.naming import ModelSource, parse_model_name

if TYPE_CHECKING:
    from torch import Tensor


def weights_bytes(name: str, *, local_files_only: bool = False) -> int | None:
    """Return the bytes of a model's weights as they are stored.

    Args:
        name: as for :func:`fuse_index.models.load_model`.
        local_files_only: never ask the Hub.

    Returns:
        The bytes, or ``None`` where they cannot be told without loading: of open_clip, and of a
        Hub id that is neither in the cache nor on a Hub that answers.

    Raises:
        ModelError: the name is malformed, or a file is not what it should be.
    """
    parsed = parse_model_name(name)
    if parsed.source is ModelSource.OPEN_CLIP:
        return None
    checkpoint = TransformersCheckpoint(parsed, local_files_only=local_files_only)
    index = checkpoint.json("model.safetensors.index.json")
    if index is not None:
        total = index.get("metadata", {}).get("total_size")
        return int(total) if isinstance(total, (int, float)) else None
    single = checkpoint.file("model.safetensors")
    if single is not None:
        return single.stat().st_size
    if checkpoint.local:
        found = [path.stat().st_size for path in visible_files(parsed.location, "*.safetensors")]
        return sum(found) or None
    return None


def read_tensor(path: Path, key: str, name: str) -> Tensor:
    """Read one tensor of a safetensors file without reading the others.

    Raises:
        ModelError: the file cannot be read.
    """
    with _opened(path, name) as file:
        tensor: Tensor = file.get_tensor(key)
        return tensor


def tensor_keys(path: Path, name: str) -> list[str]:
    """List the tensors of a safetensors file.

    Raises:
        ModelError: the file cannot be read.
    """
    with _opened(path, name) as file:
        return list(file.keys())


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{name}: {path.name} cannot be read ({error})",
            expected="a complete safetensors file",
            remedy="download or save it again",
        ) from error


def weight_map(checkpoint: TransformersCheckpoint) -> dict[str, str]:
    """Map every tensor of a checkpoint to the file that holds it."""
    index = checkpoint.json("model.safetensors.index.json")
    if index is not None:
        return {str(key): str(file) for key, file in index.get("weight_map", {}).items()}
    path = checkpoint.file("model.safetensors")
    if path is None:
        return {}
    return dict.fromkeys(tensor_keys(path, checkpoint.name.text), path.name)
