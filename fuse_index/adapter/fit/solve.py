"""Solving positive semidefinite systems, all faces of a group together.

Three routes, from the fastest to the most careful. Each reports whether its result holds:

1. Cholesky, where the condition number is small enough for the precision of the Gram matrices;
2. eigenvalues, where the rank is deficient but the gap is clear, and for the ridge chosen by
   generalized cross-validation (Golub, Heath & Wahba 1979);
3. the data themselves (:mod:`fuse_index.adapter.fit.lstsq`), where the squared condition number
   of a Gram matrix exceeds the precision of float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.gram import FaceSystem

# Largest condition number of a Gram matrix that leaves a relative error of a few 1e-6 in the
# solution. Products in float32 were measured to cost 2e-8 times the condition number plus 5e-7.
CONDITION_LIMITS = {torch.float64: 1e9, torch.float32: 100.0}
# Singular values up to this share of the largest of the group count as zero: float32 tables hold
# nothing below it.
RANK_TOLERANCE = 1e-10
_POWER_STEPS = 4
_COLUMNS = 256  # of a right-hand side that are solved on their own
_RIDGES_PER_DECADE = 10
_RIDGE_DECADES = (-6, 3)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and vectors of the faces of a group, and the right-hand sides in that basis.

    Attributes:
        values: one ``(n,)`` float64 per face, ascending, at least 0.
        vectors: one ``(n, n)`` per face.
        rotated: one ``(n, m)`` per face, ``vectors^H @ right``.
        weights: 1, or 2 for a face that stands for its conjugate too.
    """

    values: list[Tensor]
    vectors: list[Tensor]
    rotated: list[Tensor]
    weights: list[int]

    @property
    def top(self) -> float:
        """The largest eigenvalue of all faces."""
        return max(float(values[-1]) for values in self.values)


@dataclass(frozen=True)
class Residuals:
    """What the residual sum of squares needs beside the spectrum.

    Attributes:
        count: rows of all faces, ``k * rows``.
        energy: sum of the squares of the transformed targets, ``k ||Y||^2``; ``None`` in the dual
            form, where the right-hand sides hold it.
    """

    count: int
    energy: float | None


def mean_eigenvalue(systems: Sequence[FaceSystem], count: int) -> float:
    """Return the sum of the eigenvalues of all faces over their number: the unit of the ridge."""
    return sum(s.weight * float(s.gram.diagonal().real.sum()) for s in systems) / count


def solve_cholesky(
    systems: Sequence[FaceSystem], ridge: float, workers: Workers
) -> list[Tensor] | None:
    """Solve ``(gram + ridge I) z = right`` for every face by Cholesky factors.

    Args:
        systems: the faces, in the precision in which their products were made.
        ridge: absolute, at least 0.
        workers: that factor and solve.

    Returns:
        One ``z`` for each face, or ``None`` where the condition number is too large.
    """
    factors = workers.map(lambda system: _factor(system.gram, ridge), systems)
    top = max(factor.largest for factor in factors)
    limit = CONDITION_LIMITS[systems[0].gram.real.dtype]
    if not all(0 < top <= limit * factor.smallest for factor in factors):
        return None
    tasks = [
        (face, slice(start, start + _COLUMNS))
        for face, system in enumerate(systems)
        for start in range(0, system.right.shape[1], _COLUMNS)
    ]

    def solve(task: tuple[int, slice]) -> Tensor:
        face, columns = task
        right = systems[face].right[:, columns]
        return torch.cholesky_solve(right, factors[face].upper, upper=True)

    solved = workers.map(solve, tasks)
    return [
        torch.cat([part for part, task in zip(solved, tasks, strict=True) if task[0] == face], 1)
        for face in range(len(systems))
    ]


def decompose(systems: Sequence[FaceSystem], workers: Workers) -> Spectrum:
    """Return the eigendecomposition of every face."""
    parts = workers.map(_decompose, systems)
    values, vectors, rotated = (list(part) for part in zip(*parts, strict=True))
    return Spectrum(values, vectors, rotated, [s.weight for s in systems])


def solve_spectrum(spectrum: Spectrum, ridge: float) -> tuple[list[Tensor], list[Tensor]]:
    """Solve ``(gram + ridge I) z = right`` without directions that may be null.

    Returns:
        One ``z`` for each face, and one ``(n, dropped)`` basis of the directions left out. The
        caller must look at the data to see whether they are null.
    """
    cut = (spectrum.top + ridge) / CONDITION_LIMITS[torch.float64] - ridge
    solved, dropped = [], []
    triples = zip(spectrum.values, spectrum.vectors, spectrum.rotated, strict=True)
    for values, vectors, rotated in triples:
        kept = values > cut
        inverse = torch.where(kept, 1 / (values + ridge), 0)
        solved.append(vectors @ (inverse[:, None] * rotated))
        dropped.append(vectors[:, ~kept])
    return solved, dropped


def cross_validated_ridge(spectrum: Spectrum, residuals: Residuals, mean: float) -> float:
    """Return the ridge, in units of ``mean``, that minimizes generalized cross-validation.

    The score is ``RSS / (1 - df / N)^2`` with the residual sum of squares and the effective
    degrees of freedom of all faces together, ``N = k * rows``. Of several minima the one with the
    largest ridge is taken, and in the dual form (fewer words than the width) one that leaves
    ``df <= N / 2``: where words repeat tokens the score falls once more towards interpolation,
    which predicts other words badly.

    Args:
        spectrum: of the Gram matrices, primal or dual.
        residuals: what the score needs to know of the data.
        mean: unit of the ridge, see :func:`mean_eigenvalue`.
    """
    low, high = _RIDGE_DECADES
    grid = torch.logspace(low, high, (high - low) * _RIDGES_PER_DECADE + 1, dtype=torch.float64)
    score = torch.zeros_like(grid)
    freedom = torch.zeros_like(grid)
    penalties = grid * mean
    for values, rotated, weight in zip(
        spectrum.values, spectrum.rotated, spectrum.weights, strict=True
    ):
        eigen = values.cpu()
        power = rotated.abs().square().sum(1).cpu() * weight
        shrunk = eigen + penalties[:, None]
        freedom += weight * (eigen / shrunk).sum(1)
        if residuals.energy is None:
            score += (power * (penalties[:, None] / shrunk).square()).sum(1)
        else:
            score -= (power * (eigen + 2 * penalties[:, None]) / shrunk.square()).sum(1)
    if residuals.energy is not None:
        score = (score + residuals.energy).clamp_min(0)
    score = score / (1 - freedom / residuals.count).square()
    if residuals.energy is None:
        score[freedom > residuals.count / 2] = torch.inf
    best = len(grid) - 1
    while best > 0 and score[best - 1] <= score[best]:
        best -= 1
    return float(grid[best])


@dataclass(frozen=True)
class _Factor:
    """Cholesky factor of a face, with estimates of its extreme eigenvalues."""

    upper: Tensor
    largest: float
    smallest: float


def _factor(gram: Tensor, ridge: float) -> _Factor:
    """Factor ``gram + ridge I``; the smallest eigenvalue is 0 where that fails."""
    if ridge:
        gram = gram.clone()
        gram.diagonal().add_(ridge)
    upper, failed = torch.linalg.cholesky_ex(gram, upper=True)
    largest = _power(upper, lambda v: upper.mH @ (upper @ v))
    if failed:
        return _Factor(upper, largest, 0.0)
    inverse = _power(upper, lambda v: torch.cholesky_solve(v, upper, upper=True))
    return _Factor(upper, largest, 1 / inverse if math.isfinite(inverse) else 0.0)


def _decompose(system: FaceSystem) -> tuple[Tensor, Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(system.gram, UPLO="U")
    return values.clamp_min(0), vectors, vectors.mH @ system.right


def _power(like: Tensor, apply: Callable[[Tensor], Tensor]) -> float:
    """Estimate the largest eigenvalue of a positive operator by the power method."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(len(like), 1, generator=generator, dtype=torch.float64).to(like)
    norm = float(torch.linalg.vector_norm(vector))
    for _ in range(_POWER_STEPS):
        vector = apply(vector / norm)
        norm = float(torch.linalg.vector_norm(vector))
        if not 0 < norm < math.inf:
            break
    return norm
