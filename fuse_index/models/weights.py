"""Weights as they are stored: which files count, their size, and single tensors of them.

A folder may hold several sets of weights: an index of shards beside a newer single file, half
precision variants, pickles. :func:`weights_file` decides which of them is the model, in the order
of ``from_pretrained``, for everything that reads weights without loading the model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse_index.common.folders import visible_files
from fuse_index.errors import ModelError
from fuse_index.models.checkpoint import TransformersCheckpoint, no_safetensors
from fuse_index.models.naming import ModelSource, parse_model_name

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_CONFIG = "config.json"
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def weights_file(checkpoint: TransformersCheckpoint) -> str | None:
    """Return the name of the file that ``from_pretrained`` reads weights from, or None.

    Its order is: the file that the configuration names, the single file, the index of shards.

    Raises:
        ModelError: the configuration names a file that is missing or no safetensors file.
    """
    named = (checkpoint.json(_CONFIG) or {}).get("transformers_weights")
    if named is None:
        return next((name for name in (SINGLE, INDEX) if checkpoint.file(name)), None)
    named, name = str(named), checkpoint.name.text
    if not named.endswith((".safetensors", ".safetensors.index.json")):
        raise no_safetensors(name, [named])
    if ".." in Path(named).parts or Path(named).is_absolute() or not checkpoint.file(named):
        raise ModelError(
            f"{name}: {_CONFIG} says that the weights are in {named}, which is not in it",
            expected="a file of the checkpoint",
            remedy=f"download what is missing, or take transformers_weights out of {_CONFIG}",
        )
    return named


def has_adapter(checkpoint: TransformersCheckpoint) -> bool:
    """Whether ``from_pretrained`` adds a PEFT adapter to the weights: then no file has them.

    Raises:
        ModelError: the adapter is pickled.
    """
    if importlib.util.find_spec("peft") is None or not checkpoint.file("adapter_config.json"):
        return False
    if not checkpoint.file("adapter_model.safetensors"):
        raise no_safetensors(checkpoint.name.text, ["adapter_model.bin"])
    return True


def require_directory_content(checkpoint: TransformersCheckpoint) -> None:
    """Check that a local directory holds a configuration and the weights that count.

    Raises:
        ModelError: something is missing; the message says what to do.
    """
    if not checkpoint.local:
        return
    name, folder = checkpoint.name.text, Path(checkpoint.name.location)
    if not (folder / _CONFIG).is_file():
        remedy = "save the model with save_pretrained()"
        if (folder / "open_clip_config.json").is_file():
            remedy = f"it is an open_clip model: name it 'open_clip:{name}'"
        raise ModelError(
            f"{name}: no config.json in the directory",
            expected="a transformers checkpoint",
            remedy=remedy,
        )
    if has_adapter(checkpoint):
        return
    begin = weights_file(checkpoint)
    if begin is None:
        raise _no_weights(name, folder)
    shards = weight_map(checkpoint) if begin.endswith(".json") else {}
    missing = sorted(file for file in {*shards.values()} if not checkpoint.file(file))
    if missing:
        raise ModelError(
            f"{name}: {begin} names {missing[0]}, which is not in the directory",
            expected="all files of the index",
            remedy="download what is missing, or save the model again",
        )


def _no_weights(name: str, folder: Path) -> ModelError:
    """Return the error for a directory without weights that count, naming those it has."""
    others = [path.name for path in visible_files(folder, "*.safetensors")]
    if others:
        return ModelError(
            f"{name}: no {SINGLE} in the directory, only {', '.join(others[:3])}",
            expected=f"{SINGLE}, or {INDEX} with its files",
            remedy="save the model with save_pretrained() without a variant, or rename the file",
        )
    return no_safetensors(
        name, [path.name for pattern in _PICKLES for path in visible_files(folder, pattern)]
    )


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
    begin = weights_file(checkpoint)
    if begin is not None and begin.endswith(".json"):
        metadata = (checkpoint.json(begin) or {}).get("metadata")
        total = metadata.get("total_size") if isinstance(metadata, dict) else None
        return int(total) if isinstance(total, (int, float)) else None
    single = None if begin is None else checkpoint.file(begin)
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
    """Map every tensor of the weights that count to the file that holds it; empty without any.

    Raises:
        ModelError: the index does not map names to files, or a file cannot be read.
    """
    begin, name = weights_file(checkpoint), checkpoint.name.text
    if begin is None:
        return {}
    if begin.endswith(".json"):
        found = (checkpoint.json(begin) or {}).get("weight_map")
        if isinstance(found, dict) and all(isinstance(file, str) for file in found.values()):
            return found
        raise ModelError(
            f"{name}: {begin} has no weight_map of tensors and files",
            expected="the file save_pretrained() writes",
            remedy="download or save it again",
        )
    path = checkpoint.file(begin)
    return {} if path is None else dict.fromkeys(tensor_keys(path, name), begin)
