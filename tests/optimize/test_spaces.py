"""Projection to tokens, against all distances in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.optimize import Problem, spaces
from fuse_index.optimize.spaces import Distance, NearestTokens


def points_near(problem: Problem, count: int) -> torch.Tensor:
    table = problem.source.table()
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, len(table), (count,), generator=generator)
    noise = torch.randn((count, table.shape[1]), generator=generator)
    return table[rows] + 0.1 * noise


@pytest.mark.parametrize("rows", [8192, 37])
@pytest.mark.parametrize("distance", list(Distance))
def test_against_brute_force(
    lm_problem: Problem, monkeypatch: pytest.MonkeyPatch, distance: Distance, rows: int
) -> None:
    monkeypatch.setattr(spaces, "_ROWS", rows)
    monkeypatch.setattr(spaces, "_POINTS", 64)
    points = points_near(lm_problem, 300)
    got = NearestTokens(lm_problem, distance)(points)
    allowed = np.flatnonzero(lm_problem.allowed)
    table = lm_problem.source.table()[allowed].double().numpy()
    wanted = points.double().numpy()
    if distance is Distance.COSINE:
        table = table / np.linalg.norm(table, axis=1, keepdims=True)
        scores = -wanted @ table.T
    else:
        scores = ((wanted[:, None] - table) ** 2).sum(axis=2)
    assert got.tolist() == allowed[scores.argmin(axis=1)].tolist()
    assert len(set(got.tolist())) > 50


def test_scale_and_neighbours(lm_problem: Problem) -> None:
    tokens = NearestTokens(lm_problem, Distance.EUCLIDEAN)
    table = lm_problem.source.table()[lm_problem.allowed].double()
    assert tokens.scale == pytest.approx(float(table.square().mean().sqrt()), rel=1e-5)
    distances = torch.cdist(table, table, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    median = float(distances.min(dim=1).values.median())
    assert tokens.neighbour_distance == pytest.approx(median, rel=1e-5)


def test_no_points(lm_problem: Problem) -> None:
    tokens = NearestTokens(lm_problem, Distance.COSINE)
    assert tokens(torch.zeros(0, lm_problem.source.width)).tolist() == []
