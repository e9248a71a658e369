"""How large the weights of a model are, without loading them."""

from __future__ import annotations

from pathlib import Path

from fuse_index.models.checkpoint import Checkpoint
from fuse_index.models.naming import ModelSource, parse_model_name


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
    checkpoint = Checkpoint(parsed, local_files_only=local_files_only)
    index = checkpoint.json("model.safetensors.index.json")
    if index is not None:
        total = index.get("metadata", {}).get("total_size")
        return int(total) if isinstance(total, (int, float)) else None
    single = checkpoint.file("model.safetensors")
    if single is not None:
        return single.stat().st_size
    if checkpoint.local:
        found = [path.stat().st_size for path in Path(parsed.location).glob("*.safetensors")]
        return sum(found) or None
    return None
