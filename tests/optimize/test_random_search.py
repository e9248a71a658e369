"""Random search: what it draws, and from where."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import OptionError
from fuse_index.models import Model
from fuse_index.objectives import CustomTextObjective
from fuse_index.optimize import (
    Beam,
    Budget,
    Norm,
    Problem,
    RandomSearch,
    Run,
    RunOptions,
    Term,
    TokenFilter,
    optimize,
)
from fuse_index.optimize.methods.random_search import _RandomMethod, ball
from fuse_index.optimize.spaces import Distance, NearestTokens
from fuse_index.predict import TokenUnits
from tests.demo_models import BASE, START


def run_of(problem: Problem, method: RandomSearch, texts: list[str]) -> Run:
    initial = [problem.encode(text) for text in texts]
    return Run(problem, initial, method=method, search=Beam(width=4), options=RunOptions())


def replaced(
    ids: torch.Tensor,
    allowed: torch.Tensor,
    count: int,
    n_replace: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """What random search draws around a prompt, without a model."""
    may = np.zeros(int(ids.max()) + 1, dtype=bool)
    may[allowed] = True
    method = object.__new__(_RandomMethod)
    method.options = RandomSearch(n_replace=n_replace)
    method.units = TokenUnits(None, may)  # type: ignore[arg-type]
    method.context = SimpleNamespace(generator=generator)  # type: ignore[assignment]
    rows = method._replaced(method.units.spans(ids.tolist()), count)
    return torch.tensor(rows.to_lists())


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 8), st.integers(1, 40))
def test_replaced_tokens(seed: int, length: int, n_replace: int, count: int) -> None:
    ids, allowed = torch.arange(100, 100 + length), torch.tensor([3, 5, 8])
    generator = torch.Generator().manual_seed(seed)
    rows = replaced(ids, allowed, count, n_replace, generator)
    assert rows.shape == (count, length)
    changed = rows != ids
    assert (changed.sum(dim=1) == min(n_replace, length)).all()
    assert set(rows[changed].tolist()) <= {3, 5, 8}


def test_replacements_are_even() -> None:
    ids, allowed = torch.full((4,), 9), torch.arange(5)
    rows = replaced(ids, allowed, 20_000, 1, torch.Generator().manual_seed(0))
    positions, tokens = (rows != 9).nonzero()[:, 1], rows[rows != 9]
    counts = torch.bincount(positions * 5 + tokens, minlength=20)
    assert (counts - 1000).abs().max() < 4 * (20_000 * 0.05 * 0.95) ** 0.5


def test_the_ball_is_filled_evenly() -> None:
    points = ball(20_000, 3, 2.0, torch.Generator().manual_seed(0)).double()
    lengths = points.norm(dim=1)
    assert lengths.max() <= 2.0 + 1e-6
    # a ball of half the radius has an eighth of the volume, each octant too
    inner = float((lengths < 1.0).double().mean())
    octant = float((points > 0).all(dim=1).double().mean())
    assert inner == pytest.approx(1 / 8, abs=4 * (1 / 8 * 7 / 8 / 20_000) ** 0.5)
    assert octant == pytest.approx(1 / 8, abs=4 * (1 / 8 * 7 / 8 / 20_000) ** 0.5)


def test_moved_tokens_stay_in_their_places(lm_problem: Problem) -> None:
    # a ball too small to reach any neighbour: every candidate is the prompt it comes from
    method = RandomSearch(search_width=7, norm=Norm.L2, radius=1e-4)
    run = run_of(lm_problem, method, [START, "a small circle", "the picture on the left"])
    states = run.search.select()
    rows = run.method.propose(states).prompts.to_lists()
    expected = [list(s.ids) for s, n in zip(states, (3, 2, 2), strict=True) for _ in range(n)]
    assert rows == expected


def test_moved_tokens_are_the_nearest_to_the_drawn_points(lm_problem: Problem) -> None:
    method = RandomSearch(search_width=40, norm=Norm.L2, radius=0.9, relative=False)
    run = run_of(lm_problem, method, [START])
    state = run.search.select()[0]
    rows = torch.tensor(run.method.propose([state]).prompts.to_lists())
    table = lm_problem.source.table()
    generator = torch.Generator().manual_seed(0)
    offsets = ball(40 * len(state.ids), table.shape[1], 0.9, generator)
    points = (table[list(state.ids)].repeat(40, 1) + offsets).double()
    allowed = np.flatnonzero(lm_problem.allowed)
    distances = torch.cdist(points, table[allowed].double())
    expected = torch.from_numpy(allowed)[distances.argmin(dim=1)].reshape(40, -1)
    assert torch.equal(rows, expected)
    assert 0 < (rows != torch.tensor(state.ids)).double().mean() < 0.5


def test_a_larger_ball_moves_more_and_units_agree(lm_problem: Problem) -> None:
    unit = NearestTokens(lm_problem, Distance.EUCLIDEAN).neighbour_distance
    unit *= lm_problem.source.width**0.5 / 2
    shares = []
    for radius, relative in [(0.5, True), (0.5 * unit, False), (1.5, True)]:
        method = RandomSearch(search_width=64, norm=Norm.L2, radius=radius, relative=relative)
        run = run_of(lm_problem, method, [START])
        state = run.search.select()[0]
        rows = np.array(run.method.propose([state]).prompts.to_lists())
        shares.append(float((rows != np.array(state.ids)).mean()))
    assert shares[0] == shares[1] < shares[2]


def test_objectives_without_a_gradient_do(lm: Model) -> None:
    objective = CustomTextObjective(
        function=lambda texts: [-t.split().count("star") for t in texts]
    )
    tokens = TokenFilter(allow_pattern=" (star|moon|blue|a)")
    problem = Problem(lm, [Term(objective, lm)], tokens=tokens)
    result = optimize(problem, START, method=RandomSearch(search_width=32), budget=Budget(steps=40))
    assert result.text.split() == ["star"] * 9
    assert result.spent["gradients"] == 0


def test_the_budget_limits_a_step(lm_problem: Problem) -> None:
    budget = Budget(forward_passes=20)
    result = optimize(lm_problem, START, method=RandomSearch(search_width=64), budget=budget)
    assert result.spent["forward_passes"] <= 20
    assert result.spent["scored"] > 10


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"random: search_width=0; expected at least 1"):
        RandomSearch(search_width=0)
    with pytest.raises(OptionError, match=r"random: norm 'l1'; expected one of l0, l2"):
        RandomSearch(norm="l1")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"random: radius=0; expected more than 0"):
        RandomSearch(radius=0)
    with pytest.raises(OptionError, match=r"random: norm 'l2' with unit 'word'; expected unit"):
        RandomSearch(unit="word", norm=Norm.L2)


def test_words_replace_words_and_no_adapter_is_asked(lm: Model, clip_only: Problem) -> None:
    terms = [Term(term.objective, term.model) for term in clip_only.terms]
    words = clip_only.word_units.words
    problem = Problem(lm, terms, words=words)
    method = RandomSearch(unit="word", search_width=24, n_replace=2)
    result = optimize(problem, BASE, method=method, budget=Budget(steps=3))
    assert result.total < result.trajectory[0].total
    assert result.spent["gradients"] == 0
    assert len(result.text.split()) == len(BASE.split())
    assert set(result.text.split()) <= {*BASE.split(), *words}
