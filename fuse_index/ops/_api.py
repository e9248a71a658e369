"""Typed, documented front of the operators."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from fuse_index.ops import _library


def pull_back(  # noqa: PLR0917 - the operator's schema
    target_grad: Tensor,
    faces: Tensor,
    face_offsets: Tensor,
    word_groups: Tensor,
    source_offsets: Tensor,
    target_offsets: Tensor,
    source_rows: int,
) -> Tensor:
    """Carry the gradient of the target's token embeddings to the source's.

    Word w with p source tokens, q target tokens and tube length k receives
    ``out[s] = sum over t < q of g[t] @ faces[(t - s) mod k]^T`` for ``s < p``; p and q may exceed
    k. All floating dtypes; bfloat16 and float16 accumulate in float32.

    Args:
        target_grad: ``(Q, d_tgt)`` packed rows of all words.
        faces: ``(F, d_src, d_tgt)`` faces of all groups one after another, same dtype.
        face_offsets: ``(n_groups + 1,)`` int64; group g owns faces ``[o[g], o[g + 1])``.
        word_groups: ``(n,)`` int64.
        source_offsets: ``(n + 1,)`` int64, rows of each word in the result.
        target_offsets: ``(n + 1,)`` int64, rows of each word in ``target_grad``.
        source_rows: P, the last source offset, known on the host.

    Returns:
        ``(P, d_src)``.

    Raises:
        ShapeError: shapes, dtypes or devices do not fit together. On the CPU the values of the
            offsets are checked too; on CUDA they are clamped instead, without waiting.
    """
    return cast(
        Tensor,
        torch.ops.fuse_index.pull_back(
            target_grad,
            faces,
            face_offsets,
            word_groups,
            source_offsets,
            target_offsets,
            source_rows,
        ),
    )


def push_forward(  # noqa: PLR0917 - the operator's schema
    source: Tensor,
    faces: Tensor,
    face_offsets: Tensor,
    word_groups: Tensor,
    source_offsets: Tensor,
    target_offsets: Tensor,
    target_rows: int,
) -> Tensor:
    """Map source token embeddings to the target's, the adjoint of :func:`pull_back`.

    ``out[t] = sum over s < p of x[s] @ faces[(t - s) mod k]`` for ``t < q``.

    Args:
        source: ``(P, d_src)`` packed rows of all words.
        faces: ``(F, d_src, d_tgt)``, same dtype.
        face_offsets: ``(n_groups + 1,)`` int64.
        word_groups: ``(n,)`` int64.
        source_offsets: ``(n + 1,)`` int64.
        target_offsets: ``(n + 1,)`` int64.
        target_rows: Q, the last target offset.

    Returns:
        ``(Q, d_tgt)``.

    Raises:
        ShapeError: shapes, dtypes, devices or offsets do not fit together.
    """
    return cast(
        Tensor,
        torch.ops.fuse_index.push_forward(
            source, faces, face_offsets, word_groups, source_offsets, target_offsets, target_rows
        ),
    )


def face_grad(  # noqa: PLR0917 - the operator's schema
    source: Tensor,
    target_grad: Tensor,
    face_offsets: Tensor,
    word_groups: Tensor,
    source_offsets: Tensor,
    target_offsets: Tensor,
    n_faces: int,
) -> Tensor:
    """Gradient for the faces: ``out[j] = sum of x[s]^T g[t]`` over words and ``(t - s) mod k = j``.

    Args:
        source: ``(P, d_src)`` packed rows of all words.
        target_grad: ``(Q, d_tgt)``, same dtype.
        face_offsets: ``(n_groups + 1,)`` int64.
        word_groups: ``(n,)`` int64.
        source_offsets: ``(n + 1,)`` int64.
        target_offsets: ``(n + 1,)`` int64.
        n_faces: F, the last face offset.

    Returns:
        ``(F, d_src, d_tgt)``.

    Raises:
        ShapeError: shapes, dtypes, devices or offsets do not fit together.
    """
    return cast(
        Tensor,
        torch.ops.fuse_index.face_grad(
            source, target_grad, face_offsets, word_groups, source_offsets, target_offsets, n_faces
        ),
    )


def t_product(a: Tensor, b: Tensor) -> Tensor:
    """``C[t] = sum over s of A[s] @ B[(t - s) mod k]`` (Kilmer & Martin 2011).

    Args:
        a: ``(*, k, n1, n2)``, face first.
        b: ``(*, k, n2, n3)``, same dtype; leading dimensions broadcast against those of ``a``.

    Returns:
        ``(*, k, n1, n3)``.

    Raises:
        ShapeError: shapes, dtypes or devices do not fit together.
    """
    if a.shape[:-3] != b.shape[:-3] and min(a.dim(), b.dim()) >= 3:
        try:
            lead = torch.broadcast_shapes(a.shape[:-3], b.shape[:-3])  # type: ignore[no-untyped-call]
        except RuntimeError:
            _library.check_t_product(a, b)
            raise
        a, b = a.expand(*lead, *a.shape[-3:]), b.expand(*lead, *b.shape[-3:])
    return cast(Tensor, torch.ops.fuse_index.t_product(a, b))
