"""Solving the normal equations of a group: Cholesky, eigenvalue cut-off, ridge, GCV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fuse_index.adapter.gram import FaceEquations

_GRID = torch.logspace(-8, 2, 61, dtype=torch.float64)


def solve_group(
    faces: Sequence[FaceEquations], ridge: float | Literal["auto"], rows: int, target_energy: float
) -> tuple[Tensor, float]:
    """Solve all faces of a group.

    Returns:
        The adapter ``(k, source_width, target_width)`` float64 and the ridge used (relative).
    """
    k = sum(face.weight for face in faces)
    width = faces[0].gram.shape[-1]
    mean = float(sum(f.weight * f.gram.diagonal().real.sum() for f in faces)) / (k * width)
    pairs = [torch.linalg.eigh(face.gram) for face in faces]
    rotated = [vectors.mH @ face.cross for (_, vectors), face in zip(pairs, faces, strict=True)]
    if ridge == "auto":
        ridge = _auto_ridge(
            faces, [v for v, _ in pairs], rotated, mean, rows * k, target_energy * k
        )
    top = max(float(values[-1]) for values, _ in pairs)
    cut = 1e-13 * top
    solved = []
    for (values, vectors), right in zip(pairs, rotated, strict=True):
        inverse = torch.where(values > cut, 1 / (values + ridge * mean), 0)
        solved.append(vectors @ (inverse[:, None] * right))
    return _inverse_transform(solved, k), float(ridge)


def _auto_ridge(
    faces: Sequence[FaceEquations],
    values: Sequence[Tensor],
    rotated: Sequence[Tensor],
    mean: float,
    count: int,
    energy: float,
) -> float:
    eig = torch.cat([v.clamp_min(0) for v in values])
    weight = torch.cat([v.new_full(v.shape, f.weight) for v, f in zip(values, faces, strict=True)])
    power = torch.cat([r.abs().square().sum(1) for r in rotated])
    grid = (_GRID.to(eig.device) * mean)[:, None]
    residual = energy - (weight * power * (eig + 2 * grid) / (eig + grid).square()).sum(1)
    freedom = (weight * eig / (eig + grid)).sum(1)
    score = residual.clamp_min(0) / (1 - freedom / count).clamp_min(1e-6).square()
    return float(_GRID[int(score.argmin())])


def _inverse_transform(half: Sequence[Tensor], k: int) -> Tensor:
    spectrum = torch.stack([face.to(torch.complex128) for face in half])
    return torch.fft.irfft(spectrum, n=k, dim=0)
