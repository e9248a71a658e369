"""Rows of different lengths in a model whose results padding changes: run apart, by length.

Whatever forms a batch need not know of it: :meth:`Model.forward <fuse_index.models.Model.forward>`
decides, by :attr:`Model.padding_limit <fuse_index.models.Model.padding_limit>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from fuse_index.models.kinds import ModelOutput

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.batch import Batch

_RUNNING: ContextVar[tuple[Tensor, int] | None] = ContextVar("rows of a batch", default=None)


def rows_running() -> tuple[Tensor, int] | None:
    """Return which rows of a batch are run at the moment, and their length; None: all of them."""
    return _RUNNING.get()


@contextmanager
def _running(rows: Tensor, length: int) -> Iterator[None]:
    token = _RUNNING.set((rows, length))
    try:
        yield
    finally:
        _RUNNING.reset(token)


def run_by_length(
    run: Callable[[Tensor, Batch, int], ModelOutput],
    embeds: Tensor,
    batch: Batch,
    logits_from: int = 0,
) -> ModelOutput:
    """Run the rows of a batch in groups of equal length, without padding.

    Args:
        run: embeddings, batch and first position with logits -> what the model gives.
        embeds: (b, L, width).
        batch: the ids that go with them.
        logits_from: positions before this one need no logits.

    Returns:
        What one pass would give, row by row; logits of a causal model at padding are 0.
    """
    order, outputs = [], []
    for rows, part in batch.by_length():
        length = part.ids.shape[1]
        with _running(rows, length):
            first = min(logits_from, length - 1)  # a shorter row may have no logits to give
            outputs.append(run(embeds[rows, :length], part, first))
        order.append(rows)
    back = torch.cat(order).argsort()
    features = [output.features for output in outputs if output.features is not None]
    if features:
        return ModelOutput(features=torch.cat(features)[back])
    logits = [output.logits for output in outputs if output.logits is not None]
    if logits[0].ndim == 2:
        return ModelOutput(logits=torch.cat(logits)[back])
    start = max(output.start for output in outputs)
    parts = zip(logits, outputs, strict=True)
    cut = [own[:, start - output.start :] for own, output in parts]
    return ModelOutput(logits=torch.cat(_padded(cut, embeds.shape[1] - start))[back], start=start)


def _padded(parts: Sequence[Tensor], length: int) -> list[Tensor]:
    """(n, T, V) of several T -> (n, length, V), zeros behind."""
    return [functional.pad(part, (0, 0, 0, length - part.shape[1])) for part in parts]


def stated_padding_limit(config: Any) -> int | None:
    """Return the length from which a configuration gives all positions other rotary frequencies.

    "longrope" (Phi-3) and "dynamic" scaling choose them by the longest row of a batch: beside a row
    longer than the original context, a shorter one is computed otherwise than alone.

    Args:
        config: of transformers.

    Returns:
        The longest batch whose frequencies are those of its shortest row; None without a limit.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(given, dict):
        return None
    # one for all layers, or one for each type of layer
    layers = [own for own in given.values() if isinstance(own, dict)] or [given]
    limits = []
    for own in layers:
        name = str(own.get("rope_type") or own.get("type") or "")
        if name not in ("longrope", "dynamic", "su"):
            continue
        key = "original_max_position_embeddings"
        limits.append(own.get(key) or getattr(config, key, None))
    known = [int(limit) for limit in limits if limit]
    return min(known) if known else None
