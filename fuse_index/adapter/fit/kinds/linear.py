"""Fits of linear maps of the tokens side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse_index.adapter.fit.kinds.words import DenseWords
from fuse_index.adapter.fit.options import Ridge
from fuse_index.adapter.maps.linear import BlockMap, LowRankMap, OrthogonalMap

_RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_EQUAL = 1e-3
"""Of ranks whose squared errors differ by less than this share the least is taken."""
_NOISE = 1e-5
"""Singular values below this share of the largest do not count."""


def fit_block(words: DenseWords, ridge: Ridge) -> BlockMap:
    """Fit a ridge regression from all source entries to all target entries."""
    matrix = words.solve(ridge).faces[0].float()
    return BlockMap(words.intercept(words.x.mean(0) @ matrix), matrix)


def fit_orthogonal(words: DenseWords) -> OrthogonalMap:
    """Fit a scale times a partial isometry, the Procrustes problem of the centred words.

    Source: Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem".
    """
    x, y = (side - side.mean(0) for side in (words.x, words.y))
    left, values, right = _svd_of_product(x, y)
    kept = values > _NOISE * values[:1]
    left, values, right = left[:, kept], values[kept], right[:, kept]
    scale = values.sum() / (x @ left).square().sum().clamp(min=torch.finfo(x.dtype).tiny)
    matrix = (scale * left) @ right.T
    return OrthogonalMap(words.intercept(words.x.mean(0) @ matrix), matrix)


def fit_low_rank(words: DenseWords, ridge: Ridge, seed: int) -> LowRankMap:
    """Fit a reduced-rank regression, whose rank a fifth of the words chooses.

    Source: Izenman (1975), "Reduced-rank regression for the multivariate linear model".
    """
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed))
    cut = max(1, len(words) // 5)
    order = order.to(words.source.device)
    tested, fitted = words.select(order[:cut]), words.select(order[cut:])
    matrix, basis = _basis(fitted, ridge)
    truth = tested.y - fitted.y.mean(0)
    guess = (tested.x - fitted.x.mean(0)) @ matrix @ basis  # (n, T), by direction
    errors = {}
    for rank in {*_RANKS, basis.shape[1]}:
        if rank <= basis.shape[1]:
            errors[rank] = float((guess[:, :rank] @ basis[:, :rank].T - truth).square().sum())
    least = (1 + _EQUAL) * min(errors.values())
    rank = min(own for own, error in errors.items() if error <= least)
    matrix, basis = _basis(words, ridge)
    left, right = matrix @ basis[:, :rank], basis[:, :rank].T.contiguous()
    return LowRankMap(words.intercept(words.x.mean(0) @ left @ right), left, right)


def _basis(words: DenseWords, ridge: Ridge) -> tuple[Tensor, Tensor]:
    """Return the ridge solution ``(S, T)``, and the principal directions of its values."""
    matrix = words.solve(ridge).faces[0].float()
    values = (words.x - words.x.mean(0)) @ matrix  # (n, T)
    if len(values) < values.shape[1]:
        sizes, vectors = torch.linalg.eigh((values @ values.T).double())
        kept = sizes > _NOISE**2 * sizes[-1:]
        basis = values.T.double() @ (vectors[:, kept] / sizes[kept].sqrt())
    else:
        sizes, basis = torch.linalg.eigh((values.T @ values).double())
        basis = basis[:, sizes > _NOISE**2 * sizes[-1:]]
    return matrix, basis.flip(1).float()


def _svd_of_product(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular vectors and values of ``x^T y``, with factors of at most ``n`` rows."""
    if len(x) >= min(x.shape[1], y.shape[1]):
        left, values, right = torch.linalg.svd(x.T @ y, full_matrices=False)
        return left, values, right.T
    (first, a), (second, b) = torch.linalg.qr(x.T), torch.linalg.qr(y.T)
    left, values, right = torch.linalg.svd(a @ b.T, full_matrices=False)
    return first @ left, values, second @ right.T
