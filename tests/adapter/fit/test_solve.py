"""Cholesky, eigenvalues and cross-validation against brute force."""

from __future__ import annotations

import math

import pytest
import torch

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.gram import FaceSystem
from fuse_index.adapter.fit.solve import (
    CONDITION_LIMITS,
    Residuals,
    cross_validated_ridge,
    decompose,
    mean_eigenvalue,
    solve_cholesky,
    solve_spectrum,
)
from tests.adapter.fit.fitting import CPU, draw, relative


def system(values, dtype=torch.float64, seed=0, columns=3, weight=1):
    """A face with the given eigenvalues."""
    values = torch.as_tensor(values, dtype=torch.float64)
    basis, _ = torch.linalg.qr(draw(seed, len(values), len(values), dtype=dtype))
    gram = (basis * values) @ basis.mH
    return FaceSystem(
        (gram + gram.mH) / 2, draw(seed + 1, len(values), columns, dtype=dtype), weight
    )


@pytest.fixture
def workers():
    with Workers(CPU) as result:
        yield result


@pytest.mark.parametrize("ridge", [0.0, 0.7])
@pytest.mark.parametrize("columns", [1, 256, 300])
def test_cholesky_solves_every_face(workers, ridge, columns):
    faces = [
        system([1.0, 2, 3, 4], columns=columns),
        system([3.0, 4, 5, 9], torch.complex128, 5, columns, weight=2),
    ]
    solved = solve_cholesky(faces, ridge, workers)
    for face, z in zip(faces, solved, strict=True):
        shifted = face.gram + ridge * torch.eye(4, dtype=face.gram.dtype)
        torch.testing.assert_close(shifted @ z, face.right)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_cholesky_refuses_what_it_cannot_do_well(workers, precision, dtype):
    limit = CONDITION_LIMITS[precision]

    def solve(values, ridge):
        face = system(values, dtype)
        single = precision is torch.float32
        to = {torch.float64: torch.float32, torch.complex128: torch.complex64}[dtype]
        if single:
            face = FaceSystem(face.gram.to(to), face.right.to(to), 1)
        return solve_cholesky([face], ridge, workers)

    fine = [1.0] * 20 + [4 / limit]
    assert solve(fine, 0.0) is not None
    poor = [1.0] * 20 + [0.1 / limit]
    assert solve(poor, 0.0) is None
    assert solve(poor, 1.0) is not None
    singular = [1.0, 0.0]
    assert solve(singular, 0.0) is None


def test_condition_is_that_of_all_faces_together(workers):
    large, small = system([1.0, 2, 3]), system([1e-11, 2e-11, 3e-11], seed=7)
    assert solve_cholesky([large], 0.0, workers) is not None
    assert solve_cholesky([small], 0.0, workers) is not None
    assert solve_cholesky([large, small], 0.0, workers) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_spectrum_leaves_out_what_may_be_null(workers, dtype):
    face = system([0.0, 0, 1, 2, 5], dtype)
    ((z,), (dropped,)) = solve_spectrum(decompose([face], workers), 0.0)
    assert relative(z.abs(), (torch.linalg.pinv(face.gram, rtol=1e-9) @ face.right).abs()) < 1e-12
    assert dropped.shape == (5, 2)
    assert float((face.gram @ dropped).norm()) < 1e-14


def test_spectrum_keeps_everything_under_a_ridge(workers):
    face = system([0.0, 0, 1, 2, 5])
    ((z,), (dropped,)) = solve_spectrum(decompose([face], workers), 1e-3)
    shifted = face.gram + 1e-3 * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(shifted @ z, face.right)
    assert dropped.shape[1] == 0


def test_mean_eigenvalue_counts_conjugate_faces_twice():
    faces = [system([1.0, 3.0]), system([2.0, 8.0], torch.complex128, weight=2)]
    assert mean_eigenvalue(faces, 6) == pytest.approx((1 + 3 + 2 * (2 + 8)) / 6)


def score(x, y, ridge):
    """The definition: residuals and trace of the hat matrix; none for half-interpolations."""
    hat = x @ torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1]), x.T)
    residual = (y - hat @ y).square().sum()
    if len(x) < x.shape[1] and hat.trace() > len(x) / 2:
        return math.inf
    return float(residual / (1 - hat.trace() / len(x)) ** 2)


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("noise", [0.1, 1.0, 5.0])
def test_cross_validation_minimizes_its_definition(workers, dual, noise):
    n, width = (12, 30) if dual else (40, 8)
    x = draw(0, n, width)
    y = x @ draw(1, width, 3) / width**0.5 + noise * draw(2, n, 3)
    if dual:
        faces, residuals = [FaceSystem(x @ x.T, y, 1)], Residuals(n, None)
    else:
        faces, residuals = [FaceSystem(x.T @ x, x.T @ y, 1)], Residuals(n, float(y.square().sum()))
    unit = float(x.square().sum()) / width
    chosen = cross_validated_ridge(decompose(faces, workers), residuals, unit)
    torch.set_default_dtype(torch.float64)
    try:
        grid = [10 ** (d / 10) for d in range(-60, 31)]
        scores = [score(x, y, r * unit) for r in grid]
    finally:
        torch.set_default_dtype(torch.float32)
    best = len(grid) - 1
    while best > 0 and scores[best - 1] <= scores[best]:
        best -= 1
    assert math.isclose(chosen, grid[best], rel_tol=1e-9)


def test_cross_validation_takes_no_interpolation_for_a_fit(workers):
    """Repeated words with repeated targets make the score fall to zero at ridge zero."""
    x = draw(0, 10, 30)
    y = draw(1, 10, 3)
    x, y = torch.cat([x, x[:3]]), torch.cat([y, y[:3]])  # targets unrelated to the words
    spectrum = decompose([FaceSystem(x @ x.T, y, 1)], workers)
    unit = float(x.square().sum()) / 30
    assert cross_validated_ridge(spectrum, Residuals(13, None), unit) > 0.1
