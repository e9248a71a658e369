"""What a model holds, as hashes: two models of one name are the same where these are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from fuse_index.models.base import Model

_hashed: WeakKeyDictionary[Model, tuple[str, str]] = WeakKeyDictionary()
"""The version of a model's weights that was hashed last, and the hash."""


def weights_version(model: Model) -> str:
    """A key within the process: every change of a tensor in place raises its version."""
    weights = chain(model.module.parameters(), _kept_buffers(model.module))
    return repr(([(w.data_ptr(), w._version) for w in weights], _adapters(model.module)))


def _kept_buffers(module: nn.Module) -> Iterator[Tensor]:
    """The buffers that are stored with a network; a state dict would pack quantized weights."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                yield buffer


def _adapters(module: nn.Module) -> list[Any]:
    """Which PEFT adapters are switched on, and how strongly: the weights do not tell."""
    return [
        (name, part.active_adapters, part.disable_adapters, part.merged_adapters, part.scaling)
        for name, part in module.named_modules()
        if all(hasattr(part, own) for own in ("merged_adapters", "scaling", "disable_adapters"))
    ]


def weights_hash(model: Model) -> str:
    """The hash of all weights, computed once for a version of them: it reads every byte."""
    version = weights_version(model)
    known = _hashed.get(model)
    if known is None or known[0] != version:
        digest = hashlib.blake2b(digest_size=20)
        for name, weight in sorted(model.module.state_dict().items()):
            digest.update(name.encode())
            if not isinstance(weight, torch.Tensor) or weight.is_meta:  # it is on the disk
                digest.update(repr(weight).encode())
                continue
            digest.update(
                weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
        if adapters := _adapters(model.module):
            digest.update(repr(adapters).encode())
        known = _hashed[model] = version, digest.hexdigest()
    return known[1]


def model_contents(model: Model) -> dict[str, str]:
    """Return hashes of what a model computes with, by what it is.

    All weights count, not the embeddings alone that a bundle is made for: a model that was
    fine-tuned with frozen embeddings gives other losses.
    """
    name = f"{model.name} ({model.kind.value})"
    frame = [model.frame.head, model.frame.tail, model.frame.pad, model.frame.width]
    found = {
        f"the weights of {name}": weights_hash(model),
        f"the special tokens around texts of {name}": json_hash(frame),
    }
    labels = getattr(model, "labels", None)
    if labels is not None:
        found[f"the labels of {name}"] = json_hash(labels)
    return found


def picture_hash(image: Image) -> str:
    """The hash of a picture's pixels, whatever file they come from."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=20)
    digest.update(image.tobytes())
    return digest.hexdigest()


def json_hash(value: Any) -> str:
    """The hash of a value that JSON holds."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=20).hexdigest()
