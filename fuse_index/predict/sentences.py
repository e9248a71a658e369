"""Features of sentences, kept between runs, and the sentences nearest to a target."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from fuse_index.common.cache import cache_folder
from fuse_index.common.files import replacing
from fuse_index.common.progress import Tick
from fuse_index.errors import MissingDependencyError
from fuse_index.index.approximate import import_faiss
from fuse_index.models.contents import json_hash, weights_hash
from fuse_index.objectives.features import FeatureLoss
from fuse_index.words.ragged import Ragged

logger = logging.getLogger(__name__)

FAISS_FROM = 1 << 15
"""Sentences from which on FAISS searches them: it finds the same in a tenth of the time."""
KEPT_FROM = 1024
"""Sentences from which on their features are kept; fewer are computed again in a second."""
_LAYOUT = "1"
"""Raised when features of older versions are no longer valid."""
_SHARD = 4096
"""Sentences of a file: what an interrupted run loses at most."""
_ROWS = 64
_CHUNK = 1 << 15
"""Sentences that are widened to single precision at a time."""


def sentence_features(
    loss: FeatureLoss, texts: Sequence[str], progress: Tick | None = None
) -> Tensor:
    """Return the features of sentences in a model, from the cache as far as it has them.

    The cache depends on all weights of the model, their dtype, and what surrounds the sentences;
    features that it lacks are computed and added. One that cannot be read or written is left out.

    Args:
        loss: says which model, and what surrounds the sentences.
        texts: ``n`` sentences.
        progress: called with (sentences done, sentences).

    Returns:
        ``(n, d)`` float16 of unit length on the CPU, zero where a sentence has no room.
    """
    folder = None
    if len(texts) >= KEPT_FROM and not loss.model.offloaded:
        folder = cache_folder() / "sentences" / _key(loss)
    parts = []
    for begin in range(0, len(texts), _SHARD):
        parts.append(_shard(loss, texts[begin : begin + _SHARD], folder))
        if progress is not None:
            progress(min(begin + _SHARD, len(texts)), len(texts))
    return torch.cat(parts)


def _shard(loss: FeatureLoss, texts: Sequence[str], folder: Path | None) -> Tensor:
    """Features of some sentences, from a file if there is one."""
    if folder is None:
        return _computed(loss, texts)
    name = hashlib.blake2b("\n".join(texts).encode(), digest_size=20).hexdigest()
    path = folder / f"{name}.safetensors"
    if path.exists():
        try:
            found = load_file(path)["features"]
            if found.dtype is torch.float16 and len(found) == len(texts) and found.ndim == 2:
                return found
        except (OSError, KeyError, safetensors.SafetensorError) as error:
            logger.warning("%s: %s; computed again", path, error)
    made = _computed(loss, texts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save_file({"features": made}, part)
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("%s: %s; the features are not kept", folder, error)
    return made


def _computed(loss: FeatureLoss, texts: Sequence[str]) -> Tensor:
    """``(n, d)``: sentences of like length run together, so that little is padding."""
    rows = [loss.surroundings.encode(" " + text) for text in texts]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    positions = loss.model.positions
    fixed = int(loss.batch([[loss.model.frame.pad]]).totals.item()) - 1
    room = None if positions is None else positions - fixed
    order = [row for row in order if rows[row] and (room is None or len(rows[row]) <= room)]
    found: Tensor | None = None
    for begin in range(0, len(order), _ROWS):
        own = order[begin : begin + _ROWS]
        features = loss.features(Ragged.from_lists([rows[row] for row in own])).cpu().half()
        if found is None:
            found = torch.zeros(len(rows), features.shape[1], dtype=torch.float16)
        found[own] = features
    return torch.zeros(len(rows), len(loss.target), dtype=torch.float16) if found is None else found


def _key(loss: FeatureLoss) -> str:
    """The name of the folder: a hash of what features depend on beside the sentence."""
    depends = {
        "layout": _LAYOUT,
        "dtype": str(loss.model.dtype),
        "device": loss.model.device.type,  # which rounds otherwise
        "tokenizer": loss.model.words.fingerprint,
        "surroundings": repr(loss.surroundings.key),
        "frame": repr(loss.surroundings.frame),
        "weights": weights_hash(loss.model),
    }
    return json_hash(depends)


class SentenceSearch:
    """The sentences of a corpus with the largest weighted sum of cosines.

    Args:
        features: ``(n, d)`` float16 of unit length, of every model; searched together.
    """

    def __init__(self, features: Sequence[Tensor]) -> None:
        self._features = features[0] if len(features) == 1 else torch.cat(list(features), dim=1)
        self._index: Any = None
        if len(self._features) >= FAISS_FROM:
            self._index = _faiss_index(self._features)

    def nearest(self, query: Tensor, count: int) -> NDArray[np.int64]:
        """Return sentences by the product of their features with a vector, the largest first.

        Args:
            query: ``(d,)`` float32.
            count: sentences, at most ``n``.
        """
        if self._index is not None:
            _, found = self._index.search(query[None].numpy(), count)
            ids: NDArray[np.int64] = found[0]
            return ids
        scores = torch.cat([part.float() @ query for part in torch.split(self._features, _CHUNK)])
        return torch.sort(scores, descending=True, stable=True).indices[:count].numpy()


def _faiss_index(features: Tensor) -> Any:
    """Vectors in half precision, compared one by one; None without FAISS."""
    try:
        faiss = import_faiss()
    except MissingDependencyError:
        return None
    width = features.shape[1]
    index = faiss.IndexScalarQuantizer(
        width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    for part in torch.split(features, _CHUNK):
        index.add(part.float().numpy())
    return index
