"""Runs a text tower that only takes token ids on given embeddings."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fuse_index.models.batch import Batch


class EmbeddingSubstitute:
    """Makes a token lookup return given embeddings during one forward pass.

    The text towers of CLIP models take token ids alone. Instead of copying their forward passes,
    which differ between libraries and versions, the tower runs its own, and a forward hook on its
    lookup puts other embeddings in the place of what it looked up. Gradients flow into them.

    Args:
        embedding: the tower's lookup module; it is hooked only inside :meth:`using`.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        self._embedding = embedding
        self._given = threading.local()

    @contextlib.contextmanager
    def using(self, embeds: Tensor) -> Iterator[None]:
        """Let this thread's next lookups return ``embeds`` (b, L, width)."""
        self._given.embeds = embeds
        # one that another thread registers meanwhile does the same
        handle = self._embedding.register_forward_hook(self._hook)
        try:
            yield
        finally:
            handle.remove()
            self._given.embeds = None

    def _hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        embeds: Tensor | None = getattr(self._given, "embeds", None)
        return None if embeds is None else embeds.to(output.dtype)


def marker_ids(batch: Batch, *, end: int, pad: int) -> Tensor:
    """Return ids that tell a tower where its text ends, and nothing else.

    Towers find the position to pool at from the ids: the largest one, or the first end-of-text
    token. Content could mislead them, so the ids given beside the embeddings are one filler at
    all real positions, the end mark at the last real one, and padding.

    Args:
        batch: whose lengths count.
        end: id the tower pools at; where it takes the largest id, above every other one here.
        pad: id the tower masks as padding, or any id where it masks nothing.

    Returns:
        (b, L) int64.
    """
    filler = next(i for i in range(3) if i not in (end, pad))
    ids = torch.full_like(batch.ids, filler).masked_fill_(~batch.mask, pad)
    return ids.scatter_(1, batch.last[:, None], end)


def with_padding_embedded(embeds: Tensor, batch: Batch, pad: Tensor) -> Tensor:
    """Put the padding token's embedding (width,) wherever a row has no real token.

    For towers without a mask (SigLIP), whose padding is part of the text they were trained on.
    """
    return torch.where(batch.mask[..., None], embeds, pad.to(embeds.dtype))
