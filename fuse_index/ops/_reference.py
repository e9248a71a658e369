"""The operators in pure torch: the oracle of the kernels, and what runs where there are none.

All three word operators are derivatives of one trilinear form::

    T(x, F, g) = sum over words, s < p, t < q of  x[s] @ F[(t - s) mod k] @ g[t]

``pull_back`` is its derivative in x, ``push_forward`` in g and ``face_grad`` in F. There is no
Python loop over words: words that share (group, p, q) are one batch of matrix products, one per
face. Rows are gathered and scattered by index without collisions, so results are deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.ops._checks import Layout


class FaceBatch(NamedTuple):
    """Words of one group and one shape.

    Attributes:
        first_face: index of the group's face 0.
        tube: the group's tube length k.
        source_rows: ``(m, p)`` rows of the packed source tensor.
        target_rows: ``(m, q)`` rows of the packed target tensor.
    """

    first_face: int
    tube: int
    source_rows: Tensor
    target_rows: Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half-precision storage accumulates in float32; other dtypes in themselves."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def batches(layout: Layout) -> Iterator[FaceBatch]:
    """Split the words into batches of equal (group, p, q); empty words are left out.

    Raises:
        OptionError: a CUDA graph is being captured, in which the layout cannot be read.
    """
    if layout.word_groups.is_cuda and torch.cuda.is_current_stream_capturing():
        raise OptionError(
            "a word operator without its CUDA kernel in the capture of a CUDA graph",
            expected="the kernel (pull_back in float32, bfloat16 or float16), or no capture",
            remedy="'fuse-index doctor' says why the kernels are missing",
        )
    source_counts = layout.source_offsets.diff()
    target_counts = layout.target_offsets.diff()
    keys = torch.stack([layout.word_groups, source_counts, target_counts], dim=1)  # (n, 3)
    shapes, member = torch.unique(keys, dim=0, return_inverse=True)
    order = member.argsort(stable=True)
    sizes = torch.bincount(member, minlength=shapes.shape[0]).tolist()
    face_offsets = layout.face_offsets.tolist()
    for (group, p, q), words in zip(shapes.tolist(), order.split(sizes), strict=True):
        if p == 0 or q == 0:
            continue
        source = layout.source_offsets[words, None] + torch.arange(p, device=words.device)
        target = layout.target_offsets[words, None] + torch.arange(q, device=words.device)
        first = face_offsets[group]
        yield FaceBatch(first, face_offsets[group + 1] - first, source, target)


def fold(rows: Tensor, tube: int) -> Tensor:
    """Sum rows whose positions agree modulo the tube length.

    Args:
        rows: ``(m, c, d)``.
        tube: k.

    Returns:
        ``(m, min(c, k), d)``.
    """
    count = rows.shape[1]
    if count <= tube:
        return rows
    return torch.stack([rows[:, r::tube].sum(dim=1) for r in range(tube)], dim=1)


def pairs(tube: int, face: int, source: int, target: int) -> tuple[list[int], list[int]]:
    """Return the positions (s, t) below the folded counts that meet at one face."""
    met = [(s, (s + face) % tube) for s in range(source) if (s + face) % tube < target]
    return [s for s, _ in met], [t for _, t in met]


def _spread(folded: Tensor, count: int, tube: int) -> Tensor:
    """Repeat folded rows past the tube length: ``(m, min(c, k), d) -> (m, c, d)``."""
    if count <= tube:
        return folded
    return folded[:, [s % tube for s in range(count)]]


def _map_rows(
    values: Tensor, faces: Tensor, layout: Layout, out_rows: int, *, to_source: bool
) -> Tensor:
    """Shared body of the two row maps; see :func:`pull_back` and :func:`push_forward`."""
    dtype = accumulation_dtype(values.dtype)
    out = values.new_zeros((out_rows, faces.shape[1 if to_source else 2]))
    if values.numel() == 0 or faces.numel() == 0 or out.numel() == 0:
        return out
    for batch in batches(layout):
        k = batch.tube
        rows_in, rows_out = batch.target_rows, batch.source_rows
        if not to_source:
            rows_in, rows_out = rows_out, rows_in
        given = fold(values[rows_in].to(dtype), k)  # (m, min(c_in, k), d_in)
        m, c_in, _ = given.shape
        c_out = min(rows_out.shape[1], k)
        acc = given.new_zeros((m, c_out, out.shape[1]))
        for j in range(k):
            s, t = pairs(k, j, c_out, c_in) if to_source else pairs(k, j, c_in, c_out)
            if not s:
                continue
            face = faces[batch.first_face + j].to(dtype)  # (d_src, d_tgt)
            pick, place, matrix = (t, s, face.T) if to_source else (s, t, face)
            acc[:, place] += given[:, pick] @ matrix
        out[rows_out] = _spread(acc, rows_out.shape[1], k).to(out.dtype)
    return out


def pull_back(target_grad: Tensor, faces: Tensor, layout: Layout, source_rows: int) -> Tensor:
    """``out[s] = sum over t < q of g[t] @ F[(t - s) mod k]^T``: ``(Q, d_tgt) -> (P, d_src)``."""
    return _map_rows(target_grad, faces, layout, source_rows, to_source=True)


def push_forward(source: Tensor, faces: Tensor, layout: Layout, target_rows: int) -> Tensor:
    """``out[t] = sum over s < p of x[s] @ F[(t - s) mod k]``: ``(P, d_src) -> (Q, d_tgt)``."""
    return _map_rows(source, faces, layout, target_rows, to_source=False)


def face_grad(source: Tensor, target_grad: Tensor, layout: Layout, n_faces: int) -> Tensor:
    """``out[j] = sum of x[s]^T g[t]`` over words and ``(t - s) mod k = j``: one matrix a face."""
    dtype = accumulation_dtype(source.dtype)
    d_src, d_tgt = source.shape[1], target_grad.shape[1]
    out = torch.zeros((n_faces, d_src, d_tgt), dtype=dtype, device=source.device)
    if source.numel() == 0 or target_grad.numel() == 0:
        return out.to(source.dtype)
    for batch in batches(layout):
        k = batch.tube
        x = fold(source[batch.source_rows].to(dtype), k)  # (m, min(p, k), d_src)
        g = fold(target_grad[batch.target_rows].to(dtype), k)  # (m, min(q, k), d_tgt)
        for j in range(k):
            s, t = pairs(k, j, x.shape[1], g.shape[1])
            if s:
                left, right = x[:, s].flatten(0, 1), g[:, t].flatten(0, 1)  # (m * pairs, d)
                out[batch.first_face + j] += left.T @ right
    return out.to(source.dtype)


def t_product(a: Tensor, b: Tensor) -> Tensor:
    """``C[t] = sum over s of A[s] @ B[(t - s) mod k]`` (Kilmer & Martin 2011).

    Args:
        a: ``(*, k, n1, n2)``.
        b: ``(*, k, n2, n3)``, the same leading dimensions.

    Returns:
        ``(*, k, n1, n3)`` in the dtype of ``a``; half precision accumulates in float32.
    """
    k = a.shape[-3]
    out_dtype, dtype = a.dtype, accumulation_dtype(a.dtype)
    a, b = a.to(dtype), b.to(dtype)
    if k <= 1 or a.numel() == 0 or b.numel() == 0:  # there is no FFT of nothing
        return (a @ b).to(out_dtype)
    if k == 2:  # the DFT of two faces is their sum and their difference
        plus = (a[..., 0, :, :] + a[..., 1, :, :]) @ (b[..., 0, :, :] + b[..., 1, :, :])
        minus = (a[..., 0, :, :] - a[..., 1, :, :]) @ (b[..., 0, :, :] - b[..., 1, :, :])
        return torch.stack([plus + minus, plus - minus], dim=-3).mul_(0.5).to(out_dtype)
    spectrum = torch.fft.rfft(a, dim=-3) @ torch.fft.rfft(b, dim=-3)
    product: Tensor = torch.fft.irfft(spectrum, n=k, dim=-3)
    return product.to(out_dtype).contiguous()
