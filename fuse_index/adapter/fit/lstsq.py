"""Solutions of one least-squares problem over words, by the cheapest accurate route."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from fuse_index.adapter.fit._spectrum import face_weights, from_half_spectrum, half_spectrum
from fuse_index.adapter.fit.gram import FaceSystem, GroupGram
from fuse_index.adapter.fit.options import Ridge
from fuse_index.adapter.fit.solve import (
    RANK_TOLERANCE,
    Residuals,
    cross_validated_ridge,
    decompose,
    mean_eigenvalue,
    solve_cholesky,
    solve_spectrum,
)
from fuse_index.adapter.fit.stream import LeastSquares
from fuse_index.common.progress import Add
from fuse_index.errors import ModelError

# Below this many multiplications float64 is fast enough not to think about float32.
_SINGLE_WORTHWHILE = 1 << 30
# A largest eigenvalue above this multiple of the mean: too badly conditioned for float32.
_SINGLE_ANISOTROPY = 16.0

Summing = Callable[[LeastSquares, torch.dtype, bool, Add | None], GroupGram]
"""How the sums of a problem of several shards are made: :func:`sum_shards`, or with its result."""


class Solver(str, Enum):
    """The route to a solution."""

    SINGLE = "cholesky, float32 products"
    CHOLESKY = "cholesky"
    EIGENVALUES = "eigenvalues"
    ORTHOGONAL = "orthogonal"


@dataclass(frozen=True)
class Solution:
    """The solution of one problem.

    Attributes:
        faces: ``(k, source width, target width)``, float64 or float32.
        ridge: that was used, in units of the mean eigenvalue of the Gram matrices.
        method: how it was found.
        gram: the sums it came from, in the primal form; ``None`` in the dual one.
        rejected_single: whether float32 products were tried in vain.
    """

    faces: Tensor
    ridge: float
    method: Solver
    gram: GroupGram | None = None
    rejected_single: bool = False


@dataclass(frozen=True)
class _Solved:
    """Solved faces; ``dropped`` and ``top`` as in :func:`solve_spectrum` where it was used."""

    faces: list[Tensor]
    ridge: float
    method: Solver
    dropped: list[Tensor]
    top: float = 0.0


def solve_problem(
    problem: LeastSquares,
    ridge: Ridge,
    *,
    single: bool = True,
    add: Add | None = None,
    gram: GroupGram | None = None,
    summing: Summing | None = None,
) -> Solution:
    """Minimize ``||X * G - Y||^2 + penalty ||G||^2`` over adapters ``G``.

    The penalty is ``ridge`` times the mean eigenvalue of the Gram matrices. Without one the
    solution has minimum norm, and singular values below 1e-10 of the largest count as zero. The
    relative error against the float64 pseudo-inverse is below 1e-5.

    Args:
        problem: the words; at least one.
        ridge: at least 0, or ``"auto"``: generalized cross-validation.
        single: whether float32 products may be used where the condition number allows it.
        add: called with the number of words of each chunk, once for every word.
        gram: the sums of the problem where they are known already.
        summing: makes the sums of many words; :func:`sum_shards` if not given.

    Raises:
        ModelError: an embedding is not finite.
    """
    if gram is None and problem.rows < problem.widths[0]:
        return _solve_dual(problem, ridge, add)
    if gram is None and single and _single_pays(problem, ridge):
        gram = _accumulate(problem, torch.float32, ridge, add, summing)
    if gram is not None and gram.single:
        solved = _solve_systems(problem, gram.systems(torch.float32), ridge)
        if solved is not None:
            return _finish(problem, solved, gram)
        gram = _accumulate(problem, torch.float64, ridge, None, summing)  # words were reported
        return replace(_solve_primal(problem, ridge, gram), rejected_single=True)
    gram = gram or _accumulate(problem, torch.float64, ridge, add, summing)
    return _solve_primal(problem, ridge, gram)


def _solve_primal(problem: LeastSquares, ridge: Ridge, gram: GroupGram | None) -> Solution:
    """Solve from sums of float64 products."""
    assert gram is not None
    energy = problem.k * gram.target_energy
    solved = _solve_systems(problem, gram.systems(), ridge, energy)
    assert solved is not None
    if any(basis.shape[1] for basis in solved.dropped) and not _vanishes(problem, solved):
        return _solve_orthogonal(problem, solved.ridge, gram)
    return _finish(problem, solved, gram)


def _single_pays(problem: LeastSquares, ridge: Ridge) -> bool:
    width = problem.widths[0]
    return (
        ridge != "auto"
        and problem.rows >= 2 * width
        and problem.rows * width * width >= _SINGLE_WORTHWHILE
        and torch.get_float32_matmul_precision() == "highest"
    )


def _accumulate(
    problem: LeastSquares,
    dtype: torch.dtype,
    ridge: Ridge,
    add: Add | None,
    summing: Summing | None = None,
) -> GroupGram | None:
    """Sum all words; ``None`` where the first chunk shows that float32 will not do."""
    if dtype is torch.float32 and _is_anisotropic(next(iter(problem.read(dtype)))[0]):
        return None
    energy = ridge == "auto"
    shards = problem.shards
    if shards is None or problem.rows <= shards.words:
        return sum_chunks(problem, dtype, energy, add)
    return (summing or sum_shards)(problem, dtype, energy, add)


def sum_shards(
    problem: LeastSquares, dtype: torch.dtype, energy: bool, add: Add | None
) -> GroupGram:
    """Sum shard after shard, and add the sums up in their order."""
    shards = problem.shards
    assert shards is not None
    total = empty_sums(problem, energy)
    for start in range(0, problem.rows, shards.words):
        part = shards.problem(start, min(start + shards.words, problem.rows))
        total.add_state(sum_chunks(part, dtype, energy, add).state())
    return total


def empty_sums(problem: LeastSquares, energy: bool) -> GroupGram:
    """Return the sums of no word yet."""
    widths, workers, device = problem.widths, problem.workers, problem.device
    return GroupGram(problem.k, *widths, workers=workers, device=device, energy=energy)


def sum_chunks(
    problem: LeastSquares, dtype: torch.dtype, energy: bool, add: Add | None = None
) -> GroupGram:
    """Fold all words in, chunk after chunk.

    Args:
        problem: the words.
        dtype: of the products.
        energy: whether to add up the squares of the targets.
        add: called with the number of words of each chunk.
    """
    gram = empty_sums(problem, energy)
    prepared = (gram.prepare(*chunk) for chunk in problem.read(dtype))
    running: deque[tuple[int, list[Future[None]]]] = deque()
    for sums in prepared:
        running.append((sums.source.shape[1], gram.start(sums)))
        if len(running) == 2:  # prepare the next chunk while this one is multiplied
            _await(running, add)
    while running:
        _await(running, add)
    return gram


def _await(running: deque[tuple[int, list[Future[None]]]], add: Add | None) -> None:
    words, tasks = running.popleft()
    for task in tasks:
        task.result()
    if add is not None:
        add(words)


def _is_anisotropic(source: Tensor) -> bool:
    face = source.sum(0)
    vector = face.new_ones(face.shape[1], 1)
    for _ in range(3):
        vector = face.T @ (face @ (vector / vector.norm()))
    mean = float(face.norm()) ** 2 / face.shape[1]
    return not float(vector.norm()) <= _SINGLE_ANISOTROPY * mean


def _solve_systems(
    problem: LeastSquares,
    systems: list[FaceSystem],
    ridge: Ridge,
    energy: float | None = None,
) -> _Solved | None:
    """Solve by Cholesky factors or eigenvalues; ``None`` where float32 products are not enough.

    ``energy`` of the transformed targets is given for the primal form.
    """
    unit = mean_eigenvalue(systems, problem.k * problem.widths[0])
    totals = [float(system.right.sum().abs()) for system in systems]
    if not all(map(math.isfinite, [unit, *totals])):
        raise ModelError(
            "fit_adapter: embeddings of words hold NaN or infinity",
            expected="finite embeddings",
            remedy="repair these rows or leave their words out",
        )
    if ridge != "auto":
        faces = solve_cholesky(systems, ridge * unit, problem.workers)
        single = systems[0].gram.real.dtype is torch.float32
        if faces is not None:
            method = Solver.SINGLE if single else Solver.CHOLESKY
            return _Solved(faces, ridge, method, [])
        if single:
            return None
    spectrum = decompose(systems, problem.workers)
    if ridge == "auto":
        residuals = Residuals(problem.k * problem.samples, energy)
        ridge = cross_validated_ridge(spectrum, residuals, unit) if unit > 0 else 0.0
    faces, dropped = solve_spectrum(spectrum, ridge * unit)
    return _Solved(faces, ridge, Solver.EIGENVALUES, dropped, spectrum.top)


def _finish(problem: LeastSquares, solved: _Solved, gram: GroupGram | None) -> Solution:
    faces = from_half_spectrum(solved.faces, problem.k)
    return Solution(faces, solved.ridge, solved.method, gram)


def _vanishes(problem: LeastSquares, solved: _Solved) -> bool:
    """Whether the words have nothing in the directions that the primal solution left out."""
    energies = [b.new_zeros(b.shape[1], dtype=torch.float64) for b in solved.dropped]
    for source, _ in problem.read(torch.float64):
        faces = half_spectrum(source, problem.k)
        for face, basis, total in zip(faces, solved.dropped, energies, strict=True):
            total.add_((face @ basis).abs().square().sum(0))
    return _is_noise(torch.cat(energies), solved.top)


def _is_noise(energies: Tensor, top: float) -> bool:
    return bool((energies <= RANK_TOLERANCE**2 * top).all())


def _solve_dual(problem: LeastSquares, ridge: Ridge, add: Add | None) -> Solution:
    """Solve ``(X X^H + penalty) Z = Y`` and return ``X^H Z``: fewer words than the width."""
    k = problem.k
    chunks = [
        (*half_spectrum(source, k), *half_spectrum(target, k))
        for source, target in problem.read(torch.float64)
    ]
    if add is not None:
        add(problem.rows)
    stacked = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
    faces, targets = stacked[: len(stacked) // 2], stacked[len(stacked) // 2 :]
    systems = [
        FaceSystem(x @ x.mH, y, weight)
        for x, y, weight in zip(faces, targets, face_weights(k), strict=True)
    ]
    solved = _solve_systems(problem, systems, ridge)
    assert solved is not None
    if solved.dropped:
        pairs = zip(faces, solved.dropped, strict=True)
        energies = torch.cat([(basis.mH @ x).abs().square().sum(1) for x, basis in pairs])
        if not _is_noise(energies, solved.top):
            return _solve_orthogonal(problem, solved.ridge, None)
    primal = [x.mH @ z for x, z in zip(faces, solved.faces, strict=True)]
    return _finish(problem, replace(solved, faces=primal), None)


def _solve_orthogonal(problem: LeastSquares, ridge: float, gram: GroupGram | None) -> Solution:
    """Solve from triangular factors of the words, whose condition number is not squared."""
    k, width = problem.k, problem.widths[0]
    factors: list[tuple[Tensor, Tensor]] = []
    energy = 0.0
    for source, target in problem.read(torch.float64):
        energy += float(source.square().sum())
        rows = list(zip(half_spectrum(source, k), half_spectrum(target, k), strict=True))
        if factors:
            pairs = zip(factors, rows, strict=True)
            rows = [(torch.cat([r, x]), torch.cat([c, y])) for (r, c), (x, y) in pairs]
        factors = problem.workers.map(_triangular, rows)
    parts = problem.workers.map(lambda f: torch.linalg.svd(f[0], full_matrices=False), factors)
    cut = RANK_TOLERANCE * max(float(values[0]) for _, values, _ in parts)
    penalty = ridge * energy / width
    faces = []
    for (u, values, vh), (_, right) in zip(parts, factors, strict=True):
        filtered = torch.where(values > cut, values / (values.square() + penalty), 0)
        faces.append(vh.mH @ (filtered[:, None] * (u.mH @ right)))
    return _finish(problem, _Solved(faces, ridge, Solver.ORTHOGONAL, []), gram)


def _triangular(rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(rows[0])
    return r, q.mH @ rows[1]
