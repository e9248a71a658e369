"""Third-order tensor algebra: the t-product and what is built on it.

A tensor of ``k`` frontal slices ("faces") of shape ``n1 x n2`` is stored faces first, ``(*, k, n1,
n2)``; leading dimensions are a batch. The t-product (Kilmer & Martin, "Factorization strategies
for third-order tensors", 2011) is ``C[t] = sum_s A[s] @ B[(t - s) mod k]``: a matrix product of
faces after a DFT along the tube. Every function here works on any device, for real and complex
tensors, is differentiable twice, and computes half-precision input in float32. For real tensors
the faces ``f`` and ``k - f`` of the transform are conjugates, so one of them is computed; the
faces ``0`` and ``k / 2`` are real and are computed in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fuse_index import ops
from fuse_index.errors import OptionError, ShapeError

_COMPUTE_DTYPES = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}


class TSVD(NamedTuple):
    """``A = u * s * t_transpose(v)``: orthogonal ``u`` and ``v``, f-diagonal ``s``."""

    u: Tensor
    s: Tensor
    v: Tensor


def t_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the t-product ``C[t] = sum_s a[s] @ b[(t - s) mod k]``.

    Args:
        a: ``(*, k, n1, n2)``, floating or complex.
        b: ``(*, k, n2, n3)``, same dtype and device; batch dimensions are broadcast.

    Returns:
        ``(*, k, n1, n3)`` of the same dtype.

    Raises:
        ShapeError: the tensors do not fit together.
    """
    _check_pair("t_product", a, b)
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"t_product: a has {a.shape[-1]} columns but b has {b.shape[-2]} rows "
            f"(a is {_show(a)}, b is {_show(b)})",
            remedy="did you mean t_transpose(b)?" if a.shape[-1] == b.shape[-1] else "",
        )
    if not a.is_complex():
        return ops.t_product(a, b)  # native where it is there
    blocks = [x @ y for x, y in zip(_transform(a), _transform(b), strict=True)]
    return _restore(blocks, a)


def t_transpose(a: Tensor) -> Tensor:
    """Return the adjoint under the t-product: transpose every face, reverse faces ``1..k-1``.

    Complex tensors are conjugated too, so that ``<A * B, C> = <B, t_transpose(A) * C>`` always.

    Args:
        a: ``(*, k, n1, n2)``, floating or complex.

    Returns:
        ``(*, k, n2, n1)`` of the same dtype.

    Raises:
        ShapeError: ``a`` is not a third-order tensor.
    """
    _check("t_transpose", "a", a)
    return torch.cat([a[..., :1, :, :], a[..., 1:, :, :].flip(-3)], dim=-3).mH


def t_identity(
    k: int,
    n: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the identity of the t-product: face 0 is the identity matrix, the others are zero.

    Args:
        k: tube length, at least 1.
        n: rows and columns.
        dtype: of the result; torch's default if ``None``.
        device: of the result; torch's default if ``None``.

    Returns:
        ``(k, n, n)``.

    Raises:
        ShapeError: ``k < 1`` or ``n < 0``.
    """
    if k < 1 or n < 0:
        raise ShapeError(f"t_identity: k={k}, n={n}", expected="k >= 1 and n >= 0")
    faces = torch.zeros(k, n, n, dtype=dtype, device=device)
    faces[0].fill_diagonal_(1)
    return faces


def unfold(a: Tensor) -> Tensor:
    """Stack the faces ``(*, k, n1, n2)`` on top of each other: ``(*, k * n1, n2)``.

    Raises:
        ShapeError: ``a`` is not a third-order tensor.
    """
    _check("unfold", "a", a)
    return a.flatten(-3, -2)


def fold(matrix: Tensor, k: int) -> Tensor:
    """Undo :func:`unfold`: ``(*, k * n1, n2)`` to ``(*, k, n1, n2)``.

    Raises:
        ShapeError: ``matrix`` has less than two dimensions, or its rows are not a multiple of k.
    """
    if k < 1 or matrix.ndim < 2 or matrix.shape[-2] % k:
        raise ShapeError(
            f"fold: matrix is {_show(matrix)} and k={k}",
            expected="(*, k * n1, n2): rows that are a multiple of k >= 1",
        )
    *batch, rows, columns = matrix.shape
    return matrix.reshape(*batch, k, rows // k, columns)


def bcirc(a: Tensor) -> Tensor:
    """Return the block-circulant matrix with ``bcirc(a) @ unfold(b) == unfold(t_product(a, b))``.

    Args:
        a: ``(*, k, n1, n2)``.

    Returns:
        ``(*, k * n1, k * n2)``; the block in row ``i`` and column ``j`` is face ``(i - j) mod k``.

    Raises:
        ShapeError: ``a`` is not a third-order tensor.
    """
    _check("bcirc", "a", a)
    k, n1, n2 = a.shape[-3:]
    steps = torch.arange(k, device=a.device)
    blocks = a[..., (steps[:, None] - steps) % k, :, :]  # (*, row, column, n1, n2)
    return blocks.transpose(-3, -2).reshape(*a.shape[:-3], k * n1, k * n2)


def t_pinv(a: Tensor, *, rtol: float | None = None) -> Tensor:
    """Return the Moore-Penrose inverse under the t-product.

    It satisfies the four Penrose conditions (with :func:`t_transpose` as the adjoint), and
    ``bcirc(t_pinv(a)) == pinv(bcirc(a))``. Singular values at most ``rtol`` times the largest one
    *of all faces* count as zero: a face that vanishes must not have its rounding errors inverted.

    Args:
        a: ``(*, k, n1, n2)``, floating or complex.
        rtol: relative cut-off; ``k * max(n1, n2) * eps`` if ``None``, as for the dense
            block-circulant matrix.

    Returns:
        ``(*, k, n2, n1)`` of the same dtype. Differentiable where the rank is locally constant.

    Raises:
        ShapeError: ``a`` is not a third-order tensor.
        OptionError: ``rtol`` is negative or not finite.
    """
    _check("t_pinv", "a", a)
    blocks = _transform(a)
    return _restore(_pinv_blocks("t_pinv", blocks, a, rtol), a)


def t_lstsq(a: Tensor, b: Tensor, *, ridge: float = 0.0, rtol: float | None = None) -> Tensor:
    """Return the ``x`` that minimizes ``||a * x - b||^2 + ridge * ||x||^2``.

    Without a ridge it is the solution of minimum norm, ``t_pinv(a) * b``. With one, it is computed
    as the least-squares solution of ``a`` stacked on ``sqrt(ridge)`` times the identity, which
    does not square the condition number.

    Args:
        a: ``(*, k, n1, n2)``, floating or complex.
        b: ``(*, k, n1, n3)``, same dtype and device; batch dimensions are broadcast.
        ridge: Tikhonov penalty, at least 0.
        rtol: as in :func:`t_pinv`.

    Returns:
        ``(*, k, n2, n3)`` of the same dtype.

    Raises:
        ShapeError: the tensors do not fit together.
        OptionError: ``ridge`` or ``rtol`` is negative or not finite.
    """
    _check_pair("t_lstsq", a, b)
    if a.shape[-2] != b.shape[-2]:
        raise ShapeError(
            f"t_lstsq: a has {a.shape[-2]} rows but b has {b.shape[-2]} rows "
            f"(a is {_show(a)}, b is {_show(b)})",
            remedy="did you mean t_transpose(a)?" if a.shape[-1] == b.shape[-2] else "",
        )
    _check_number("t_lstsq", "ridge", ridge)
    blocks = _transform(a)
    if ridge > 0:
        rows = a.shape[-2]
        padded = [torch.cat([x, _scaled_identity(x, ridge**0.5)], dim=-2) for x in blocks]
        inverses = [p[..., :rows] for p in _pinv_blocks("t_lstsq", padded, a, rtol)]
    else:
        inverses = _pinv_blocks("t_lstsq", blocks, a, rtol)
    return _restore([p @ y for p, y in zip(inverses, _transform(b), strict=True)], a)


def t_svd(a: Tensor) -> TSVD:
    """Return the reduced t-SVD ``a = u * s * t_transpose(v)``.

    Args:
        a: ``(*, k, n1, n2)``, floating or complex; ``r = min(n1, n2)``.

    Returns:
        ``u (*, k, n1, r)`` and ``v (*, k, n2, r)`` with ``t_transpose(u) * u`` and
        ``t_transpose(v) * v`` the identity, and the f-diagonal ``s (*, k, r, r)`` whose transform
        holds the singular values of every face. Vectors are unique up to a unit factor per face
        and column; only losses that do not depend on it can be differentiated.

    Raises:
        ShapeError: ``a`` is not a third-order tensor.
    """
    _check("t_svd", "a", a)
    parts = [torch.linalg.svd(block, full_matrices=False) for block in _transform(a)]
    return TSVD(
        _restore([u for u, _, _ in parts], a),
        _restore([torch.diag_embed(s) for _, s, _ in parts], a),
        _restore([vh.mH for _, _, vh in parts], a),
    )


class _Pinv(torch.autograd.Function):
    """Pseudo-inverse of matrices from their SVD, with the derivative of Golub & Pereyra (1973).

    The derivative needs the matrix and its pseudo-inverse only, so unlike that of the SVD it is
    finite where singular values repeat or vanish.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, u: Tensor, inverse: Tensor, vh: Tensor) -> Tensor:
        p: Tensor = (vh.mH * inverse[..., None, :]) @ u.mH
        ctx.save_for_backward(a, p)
        return p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        a, p = ctx.saved_tensors
        grad = grads[0].mH  # (*, n1, n2)
        inner = p @ grad @ p  # adjoint of -P dA P
        left = (grad - a @ (p @ grad)) @ p @ p.mH  # adjoint of P P^H dA^H (I - A P)
        right = p.mH @ p @ (grad - (grad @ p) @ a)  # adjoint of (I - P A) dA^H P^H P
        return left + right - inner.mH, None, None, None


def _pinv_blocks(call: str, blocks: list[Tensor], a: Tensor, rtol: float | None) -> list[Tensor]:
    """Pseudo-invert face blocks ``(*, f, m, n)`` with one cut-off per tensor of the batch."""
    if rtol is None:
        eps = torch.finfo(blocks[0].dtype).eps
        rtol = eps * a.shape[-3] * max(blocks[0].shape[-2:])
    else:
        _check_number(call, "rtol", rtol)
    with torch.no_grad():
        parts = [torch.linalg.svd(block.detach(), full_matrices=False) for block in blocks]
        if not blocks[0].numel():
            return [block.mH for block in blocks]
        tops = [s.amax(dim=(-2, -1)) for _, s, _ in parts]  # over faces and values
        cut = rtol * torch.stack(tops).amax(0)[..., None, None]
        inverses = [torch.where(s > cut, s.reciprocal(), 0) for _, s, _ in parts]
    pairs = zip(blocks, parts, inverses, strict=True)
    result: list[Tensor] = [_Pinv.apply(block, u, inv, vh) for block, (u, _, vh), inv in pairs]
    return result


def _transform(a: Tensor) -> list[Tensor]:
    """DFT along the tube, as blocks of faces ``(*, f, n1, n2)`` that can be treated alike.

    Complex tensors give one block. Real ones give the real faces (0 and, for even ``k``, ``k / 2``)
    and, for ``k > 2``, the complex faces ``0 < f < k / 2``.
    """
    a = a.to(_COMPUTE_DTYPES.get(a.dtype, a.dtype))
    k = a.shape[-3]
    if k == 1 or (a.is_complex() and not a.numel()):
        return [a]
    if a.is_complex():
        return [torch.fft.fft(a, dim=-3)]
    if k == 2:
        first, second = a.unbind(-3)
        return [torch.stack([first + second, first - second], dim=-3)]
    half = (k + 1) // 2
    if not a.numel():  # the FFT libraries refuse empty tensors
        spectrum = a[..., : k // 2 + 1, :, :].to(a.dtype.to_complex())
    else:
        spectrum = torch.fft.rfft(a, dim=-3)
    real = torch.cat([spectrum[..., :1, :, :], spectrum[..., half:, :, :]], dim=-3).real
    return [real, spectrum[..., 1:half, :, :]]


def _restore(blocks: Sequence[Tensor], like: Tensor) -> Tensor:
    """Undo :func:`_transform`, to the tube length and dtype of ``like``."""
    k = like.shape[-3]
    first = blocks[0]
    if k == 1:
        return first.to(like.dtype)
    if not first.numel():
        return first.new_zeros(*first.shape[:-3], k, *first.shape[-2:]).to(like.dtype)
    if like.is_complex():
        result: Tensor = torch.fft.ifft(first, dim=-3)
    elif k == 2:
        even, odd = first.unbind(-3)
        result = torch.stack([even + odd, even - odd], dim=-3) / 2
    else:
        real = first.to(blocks[1].dtype)
        parts = [real[..., :1, :, :], blocks[1], real[..., 1:, :, :]]
        result = torch.fft.irfft(torch.cat(parts, dim=-3), n=k, dim=-3)
    return result.to(like.dtype)


def _scaled_identity(block: Tensor, scale: float) -> Tensor:
    """Return ``scale`` times the identity for every face of a block ``(*, m, n)``."""
    n = block.shape[-1]
    eye = torch.eye(n, dtype=block.dtype, device=block.device) * scale
    return eye.expand(*block.shape[:-2], n, n)


def _show(a: Tensor) -> str:
    return "x".join(map(str, a.shape)) if a.ndim else "a scalar"


def _check(call: str, name: str, a: Tensor) -> None:
    if a.ndim < 3 or a.shape[-3] < 1:
        raise ShapeError(
            f"{call}: {name} is {_show(a)}",
            expected="a third-order tensor (*, k, n1, n2), faces first, with k >= 1",
            remedy=f"for one face, pass {name}[None]" if a.ndim == 2 else "",
        )
    if not (a.is_floating_point() or a.is_complex()):
        raise ShapeError(
            f"{call}: {name} has dtype {a.dtype}", expected="a floating or complex dtype"
        )


def _check_pair(call: str, a: Tensor, b: Tensor) -> None:
    _check(call, "a", a)
    _check(call, "b", b)
    if a.shape[-3] != b.shape[-3]:
        raise ShapeError(
            f"{call}: a has {a.shape[-3]} faces but b has {b.shape[-3]} "
            f"(a is {_show(a)}, b is {_show(b)})",
            expected="one tube length k",
            remedy="zero-pad the shorter tube",
        )
    if a.dtype != b.dtype or a.device != b.device:
        raise ShapeError(
            f"{call}: a is {a.dtype} on {a.device} but b is {b.dtype} on {b.device}",
            expected="one dtype and device",
            remedy="use b.to(a)",
        )
    pairs = zip(reversed(a.shape[:-3]), reversed(b.shape[:-3]), strict=False)
    if any(m != n and 1 not in (m, n) for m, n in pairs):
        raise ShapeError(
            f"{call}: a has batch dimensions {tuple(a.shape[:-3])} but b has "
            f"{tuple(b.shape[:-3])} (a is {_show(a)}, b is {_show(b)})",
            expected="batch dimensions that broadcast",
        )


def _check_number(call: str, name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise OptionError(f"{call}: {name}={value!r}", expected="a finite number >= 0")
