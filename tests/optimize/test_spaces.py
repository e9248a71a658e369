"""Spaces of soft prompts: projections, against all distances in float64, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.optimize import Predictor, Problem, Spent, spaces
from fuse_index.optimize.spaces import Distance, NearestTokens, TokenSpace, WordSpace
from fuse_index.predict import Gradients
from fuse_index.words.ragged import Ragged
from tests.demo_models import BASE, START
from tests.predict.helpers import word_gradient


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


def token_space(problem: Problem) -> TokenSpace:
    return TokenSpace(problem, Gradients(problem, Spent()), relative=True)


def word_space(problem: Problem, predictor: str, *, relative: bool = True) -> WordSpace:
    return WordSpace(problem, Gradients(problem, Spent()), Predictor(predictor), relative=relative)


def units_of(problem: Problem, text: str) -> list[int]:
    return [problem.word_units.words.index(word) for word in text.split()]


def test_tokens_are_points_of_the_embeddings(problem: Problem) -> None:
    space = token_space(problem)
    ids = problem.encode(START)
    table = problem.source.table()
    torch.testing.assert_close(space.begin(ids) * space.scale, table[list(ids)])
    assert space.nearest(space.begin(ids)).tolist() == list(ids)
    allowed = np.flatnonzero(problem.allowed)
    points = space.points_of(torch.tensor([0, 5]))
    torch.testing.assert_close(points * space.scale, table[allowed[[0, 5]]])
    assert space.prompt(list(ids)) == list(ids)
    gradients = space.gradients([ids], problem.weights)
    rows = Gradients(problem, Spent()).embeddings(Ragged.from_lists([ids]), problem.weights)
    torch.testing.assert_close(gradients, rows)


@pytest.mark.parametrize("predictor", ["embedding", "adapter"])
def test_points_project_to_the_nearest_word(problem: Problem, predictor: str) -> None:
    space, units = word_space(problem, predictor), problem.word_units
    models = [problem.source] if predictor == "adapter" else [t.model for t in problem.terms]
    parts = [units.vectors(model) for model in models]
    words = torch.cat([own / own.square().mean().sqrt() for own in parts], dim=1).double()
    points = torch.randn(40, words.shape[1], generator=torch.Generator().manual_seed(0))
    cosines = torch.nn.functional.cosine_similarity(points.double()[:, None], words[None], dim=2)
    assert torch.equal(space.nearest(points), cosines.argmax(1))
    rows = torch.arange(0, len(units), 7)
    assert (space.nearest(words[rows].float()) == rows).float().mean() > 0.95  # but for equals
    torch.testing.assert_close(space.points_of(rows), words[rows].float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("predictor", ["embedding", "adapter"])
def test_it_begins_at_the_words_of_the_prompt(problem: Problem, predictor: str) -> None:
    space = word_space(problem, predictor)
    units = space.nearest(space.begin(problem.encode(START)))
    assert [problem.word_units.words[i] for i in units.tolist()] == START.split()
    assert problem.decode(space.prompt(units.tolist())).strip() == START


def test_gradients_are_summed_over_each_words_tokens(clip_only: Problem) -> None:
    space = word_space(clip_only, "embedding", relative=False)
    found = space.gradients([units_of(clip_only, BASE)], np.ones(1))[0]
    for i in range(len(BASE.split())):
        expected = word_gradient(clip_only, BASE, i).sum(0)
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-6)


def test_gradients_through_the_adapter_move_a_words_tokens_together(clip_only: Problem) -> None:
    space = word_space(clip_only, "adapter", relative=False)
    found = space.gradients([units_of(clip_only, BASE)], np.ones(1))[0]
    adapter = clip_only.targets[0].adapter
    assert adapter is not None
    source = clip_only.source.words.encode_words(BASE.split()).lengths
    for i, p in enumerate(source.tolist()):
        own = word_gradient(clip_only, BASE, i)
        spread = own.sum(0).expand(len(own), -1) / len(own)
        pulled = adapter.pull_back(spread, adapter.layout([p], [len(own)])).sum(0)
        torch.testing.assert_close(found[i], pulled, rtol=1e-3, atol=1e-6)


def test_a_weight_of_zero_leaves_a_part_alone(problem: Problem) -> None:
    space = word_space(problem, "embedding")
    found = space.gradients([units_of(problem, START)], np.array([0.0, 2.0]))[0]
    width = problem.source.width
    assert not found[:, :width].any()
    assert found[:, width:].any()
