"""Hidden states of units, kept between runs: they are computed once for a model and its units."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from weakref import WeakKeyDictionary

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fuse_index.common.cache import cache_folder
from fuse_index.common.files import replacing
from fuse_index.common.progress import Tick
from fuse_index.models.base import Model
from fuse_index.predict.states import Contexts, hidden_states
from fuse_index.words.ragged import Ragged

logger = logging.getLogger(__name__)

KEPT_FROM = 1024
"""Units from which on their states are kept; fewer are computed again in seconds."""
_LAYOUT = "2"
"""Raised when states of older versions are no longer valid."""
_NAME = "states"
_MOST_IN_MEMORY = 2
_made: WeakKeyDictionary[Model, dict[str, Tensor]] = WeakKeyDictionary()
_hashed: WeakKeyDictionary[Model, tuple[str, str]] = WeakKeyDictionary()
"""The version of a model's weights that was hashed last, and the hash."""


def kept_states(
    model: Model,
    tokens: Ragged,
    contexts: Contexts | None = None,
    progress: Tick | None = None,
) -> Tensor:
    """Return :func:`~fuse_index.predict.states.hidden_states`, from the cache if they are there.

    The last few of every model stay in memory. The key in the cache is a hash of what the states
    depend on: all weights of the model and their dtype, the units' tokens, and the contexts. A
    cache that cannot be read or written is left out.

    Args:
        model: runs the units.
        tokens: ``N`` units in its tokens.
        contexts: the contexts.
        progress: called with (units done, units in all) while states are computed.

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


def _find(model: Model, tokens: Ragged, contexts: Contexts, progress: Tick | None) -> Tensor:
    if len(tokens) < KEPT_FROM:
        return hidden_states(model, tokens, contexts, progress)
    path = _path(model, tokens, contexts)
    known = _read(path, len(tokens))
    if known is None:
        known = hidden_states(model, tokens, contexts, progress)
        _write(path, known)
    return known.to(model.device)


def are_kept(model: Model, tokens: Ragged, contexts: Contexts | None = None) -> bool:
    """Whether the states of units are in memory or in the cache, and cost nothing."""
    contexts = contexts or Contexts()
    if _version(model, tokens, contexts) in _made.get(model, {}):
        return True
    return len(tokens) >= KEPT_FROM and _path(model, tokens, contexts).is_file()


def _path(model: Model, tokens: Ragged, contexts: Contexts) -> Path:
    return cache_folder() / "layers" / f"{_key(model, tokens, contexts)}.safetensors"


def _version(model: Model, tokens: Ragged, contexts: Contexts) -> str:
    """A key within the process: every change of a tensor in place raises its version."""
    digest = hashlib.blake2b(repr(contexts).encode(), digest_size=20)
    digest.update(tokens.offsets.tobytes())
    digest.update(tokens.values.tobytes())
    digest.update(_weights_version(model).encode())
    return digest.hexdigest()


def _weights_version(model: Model) -> str:
    return repr([(w.data_ptr(), w._version) for w in model.module.state_dict().values()])


def _weights_hash(model: Model) -> str:
    """The hash of all weights, computed once for a version of them: it reads every byte."""
    version = _weights_version(model)
    known = _hashed.get(model)
    if known is None or known[0] != version:
        digest = hashlib.blake2b(digest_size=20)
        for name, weight in sorted(model.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        known = _hashed[model] = version, digest.hexdigest()
    return known[1]


def _key(model: Model, tokens: Ragged, contexts: Contexts) -> str:
    options = {
        "layout": _LAYOUT,
        "dtype": str(model.dtype),
        "device": model.device.type,  # which rounds otherwise
        "contexts": asdict(contexts),
        "weights": _weights_hash(model),
    }
    digest = hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=20)
    digest.update(tokens.offsets.tobytes())
    digest.update(tokens.values.tobytes())
    return digest.hexdigest()


def _read(path: Path, words: int) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        found = load_file(path).get(_NAME)
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("%s: %s; computed again", path, error)
        return None
    return found if found is not None and len(found) == words else None


def _write(path: Path, states: Tensor) -> None:
    try:
        with replacing(path) as part:
            save_file({_NAME: states.cpu().contiguous()}, part)
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("%s: %s; the states are not kept", path, error)
