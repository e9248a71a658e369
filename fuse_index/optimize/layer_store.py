"""Keeps the words' hidden states between runs, since a model makes them of its words only once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import safetensors
import torch
from safetensors.torch import load_file, save_file

from fuse_index.common.cache import cache_folder
from fuse_index.optimize.layer_words import Contexts, Progress, layer_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.words.ragged import Ragged

logger = logging.getLogger(__name__)

KEPT_FROM = 1024
"""Words from which on their states are kept; fewer are made anew in seconds."""
_LAYOUT = "1"
"""Raised when states of older versions shall not be found any more."""
_NAME = "states"
_MOST_IN_MEMORY = 2
_made: WeakKeyDictionary[Model, dict[str, Tensor]] = WeakKeyDictionary()


def kept_layer_vectors(
    model: Model,
    tokens: Ragged,
    contexts: Contexts | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Return :func:`~fuse_index.optimize.layer_words.layer_vectors`, from the cache if known.

    The last few of every model stay in memory. The place in the cache is decided by what the states
    depend on: all weights of the model and their dtype, the words' tokens, and the contexts. A
    cache that cannot be read or written is done without.

    Args:
        model: whose.
        tokens: ``N`` words in its tokens.
        contexts: where the words are looked at.
        progress: called while they are.

    Returns:
        ``(N, (layers + 1) * width)`` float32 on the model's device.

    Raises:
        ModelError: the model's layers cannot be told apart.
    """
    contexts = contexts or Contexts()
    made = _made.setdefault(model, {})
    key = _version(model, tokens, contexts)
    found = made.pop(key, None)
    if found is None:
        found = _find(model, tokens, contexts, progress)
    made[key] = found  # the latest comes last
    while len(made) > _MOST_IN_MEMORY:
        del made[next(iter(made))]
    return found


def _find(model: Model, tokens: Ragged, contexts: Contexts, progress: Progress | None) -> Tensor:
    if len(tokens) < KEPT_FROM:
        return layer_vectors(model, tokens, contexts, progress)
    path = cache_folder() / "layers" / f"{_key(model, tokens, contexts)}.safetensors"
    known = _read(path, len(tokens))
    if known is None:
        known = layer_vectors(model, tokens, contexts, progress)
        _write(path, known)
    return known.to(model.device)


def _version(model: Model, tokens: Ragged, contexts: Contexts) -> str:
    """A key within the process: every change of a tensor in place raises its version."""
    digest = hashlib.blake2b(repr(contexts).encode(), digest_size=20)
    digest.update(tokens.offsets.tobytes())
    digest.update(tokens.values.tobytes())
    weights = [(w.data_ptr(), w._version) for w in model.module.state_dict().values()]
    digest.update(repr(weights).encode())
    return digest.hexdigest()


def _key(model: Model, tokens: Ragged, contexts: Contexts) -> str:
    options = {
        "layout": _LAYOUT,
        "dtype": str(model.dtype),
        "device": model.device.type,  # which rounds otherwise
        "contexts": asdict(contexts),
    }
    digest = hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=20)
    digest.update(tokens.offsets.tobytes())
    digest.update(tokens.values.tobytes())
    for name, weight in sorted(model.module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(path: Path, words: int) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        found = load_file(path).get(_NAME)
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("%s: %s; made anew", path, error)
        return None
    return found if found is not None and len(found) == words else None


def _write(path: Path, states: Tensor) -> None:
    # under another name first, so that no other run finds half a file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            save_file({_NAME: states.cpu().contiguous()}, name)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("%s: %s; the words' states are not kept", path, error)
