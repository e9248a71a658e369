"""The autograd bridge: the target's own embeddings go forward, the pulled-back gradient goes back.

Discrete text passes exactly, because both models read the same text; only the gradient takes the
way through the adapter (a straight-through estimate).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fuse_index.errors import ShapeError

if TYPE_CHECKING:
    from fuse_index.adapter.adapter import Adapter
    from fuse_index.adapter.layout import WordLayout


class _StraightThrough(torch.autograd.Function):
    """Forward: the target rows. Backward: the pull-back of their gradient."""

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, target: Tensor, adapter: Adapter, layout: WordLayout
    ) -> Tensor:
        ctx.adapter, ctx.layout, ctx.dtype = adapter, layout, source.dtype
        ctx.source = None if adapter.linear else source.detach()
        return target.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the source rows; the target's table is frozen."""
        pulled = ctx.adapter.pull_back(grads[0], ctx.layout, source=ctx.source)
        return pulled.to(ctx.dtype), None, None, None


def bridge(
    adapter: Adapter,
    source: Tensor,
    target: Tensor,
    layout: WordLayout,
    *,
    source_start: int = 0,
    target_start: int = 0,
) -> Tensor:
    """Return the target's embeddings such that their gradient reaches the source's.

    Args:
        adapter: of these two models.
        source: ``(source_rows, d_src)`` packed or ``(b, L, d_src)`` padded source embeddings that
            require a gradient.
        target: ``(target_rows, d_tgt)`` packed or ``(b, L', d_tgt)`` padded: the target's own
            embeddings of the same words, special tokens included. No gradient flows into them.
        layout: the words.
        source_start: position of the first word in padded source rows.
        target_start: position of the first word in padded target rows.

    Returns:
        The values of ``target``, connected to ``source``.

    Raises:
        ShapeError: one is packed and the other padded, or they do not fit the layout.
    """
    if source.ndim != target.ndim or source.ndim not in (2, 3):
        raise ShapeError(
            f"bridge: source of shape {tuple(source.shape)} and target {tuple(target.shape)}",
            expected="both packed (rows, width) or both padded (prompts, length, width)",
        )
    target = target.detach()
    if source.ndim == 2:
        _check_rows("source", source, layout.source_rows)
        _check_rows("target", target, layout.target_rows)
        return _through(source, target, adapter, layout)
    words = _through(
        layout.pack_source(source, source_start),
        layout.pack_target(target, target_start),
        adapter,
        layout,
    )
    # Rows outside the words (special tokens, prefix, padding) keep their own embeddings.
    padded = layout.pad_target(words, target.shape[1], target_start)
    ones = layout.pad_target(words.new_ones(layout.target_rows, 1), target.shape[1], target_start)
    return torch.where(ones > 0, padded, target)


def _through(source: Tensor, target: Tensor, adapter: Adapter, layout: WordLayout) -> Tensor:
    out: Tensor = _StraightThrough.apply(source, target, adapter, layout)
    return out


def _check_rows(side: str, rows: Tensor, expected: int) -> None:
    if rows.shape[0] != expected:
        raise ShapeError(
            f"bridge: {rows.shape[0]} packed {side} rows", expected=f"{expected}, as the layout has"
        )
