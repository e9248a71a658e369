"""Hashes of everything a run reads that its configuration only names.

A checkpoint holds them, so that a run does not go on after a picture, a model, a list of words or
an adapter was replaced under its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch

from fuse_index.adapter.adapter import Adapter
from fuse_index.bundle.layout import ADAPTER
from fuse_index.models.contents import json_hash, model_contents
from fuse_index.optimize.problem import Problem


def contents_of(problem: Problem, draft: Problem | None = None) -> dict[str, str]:
    """Return hashes of what a run reads, by what it is.

    Args:
        problem: models, pictures, words and adapters of the run.
        draft: the problem of its probe sampling, if it has one.
    """
    found: dict[str, str] = {}
    for part in (problem, draft):
        if part is None:
            continue
        for model in dict.fromkeys((part.source, *(term.model for term in part.terms))):
            found |= model_contents(model)
        for loss in part.losses:
            found |= {f"{what} of {loss.name}": own for what, own in loss.contents().items()}
    for target in problem.targets:
        if target.adapter is not None:
            found[f"the adapter to {target.model.name}"] = _adapter_hash(target.adapter)
    words = problem.candidate_words()
    if words:
        found["the words of word-level moves"] = _words_hash(words)
    return found


def replaced(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what has other contents than before, or was there once only."""
    names = dict.fromkeys((*before, *now))
    return [name for name in names if before.get(name) != now.get(name)]


def _adapter_hash(adapter: Adapter) -> str:
    """The checksum of a bundle's adapters, else a hash of the adapters themselves."""
    if adapter.bundle is not None and ADAPTER in adapter.bundle.manifest.files:
        return adapter.bundle.manifest.files[ADAPTER].sha256
    tensors = adapter.tensors()
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    known = [adapter.group_names, adapter.products.tubes, shapes]
    digest = hashlib.blake2b(json_hash(known).encode())
    for tensor in tensors.values():
        rows = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(rows.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _words_hash(words: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for word in words:
        digest.update(word.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
