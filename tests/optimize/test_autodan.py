"""AutoDAN: likelihoods, merits, and one position after the other, each prompt by itself."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fuse_index.optimize.likelihood import Likelihood

from fuse_index.adapter import Adapter
from fuse_index.errors import ModelError, OptionError
from fuse_index.models import Model
from fuse_index.models.causal import CausalModel
from fuse_index.objectives import Fluency, ImageSimilarity, TextSimilarity
from fuse_index.optimize import (
    AutoDAN,
    Beam,
    Budget,
    Greedy,
    Problem,
    Run,
    RunOptions,
    SearchOptions,
    Spent,
    Stop,
    Term,
    TokenFilter,
    UniformCost,
    optimize,
)
from fuse_index.optimize.merit import draw_ranked, merits_of
from fuse_index.words.ragged import Ragged

BEGINNINGS = ["the picture", "a small"]


def run_of(
    problem: Problem, options: AutoDAN, texts: list[str], search: SearchOptions | None = None
) -> Run:
    initial = [problem.encode(text) for text in texts]
    return Run(
        problem, initial, method=options, search=search or Beam(width=4), options=RunOptions()
    )


@pytest.fixture(scope="module")
def image_only(lm: Model, clip: Model, clip_adapter: Adapter, image_path: Path) -> Problem:
    """Like the picture, readable or not."""
    term = Term(ImageSimilarity(images=image_path), clip, clip_adapter)
    return Problem(lm, [term], tokens=TokenFilter(words_only=True))


# merits and draws


def test_merits_are_likelihood_less_standardized_change() -> None:
    generator = torch.Generator().manual_seed(0)
    likelihoods = torch.randn(20, generator=generator)
    gradient = torch.randn(20, generator=generator) * 1e-6
    allowed = torch.rand(20, generator=generator) < 0.6
    got = merits_of(likelihoods, gradient, allowed, 2.5)
    own = gradient[allowed].double().numpy()
    for token in range(20):
        if not allowed[token]:
            assert got[token] == -math.inf
            continue
        change = (float(gradient[token]) - own.mean()) / own.std()
        assert float(got[token]) == pytest.approx(
            float(likelihoods[token]) - 2.5 * change, abs=1e-4
        )
    assert torch.equal(
        merits_of(likelihoods, gradient * 1e6, allowed, 2.5).topk(5).indices, got.topk(5).indices
    )
    flat = merits_of(likelihoods, torch.zeros(20), allowed, 2.5)
    assert torch.equal(flat[allowed], likelihoods[allowed])


def test_draws_follow_the_softmax_without_repeats() -> None:
    merits = torch.tensor([1.0, 0.0, -math.inf, 2.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    first = torch.zeros(5)
    for _ in range(4000):
        drawn = draw_ranked(merits, 3, 0.7, generator)
        assert len(set(drawn.tolist())) == 3
        assert 2 not in drawn
        first[drawn[0]] += 1
    expected = (merits / 0.7).softmax(dim=0)
    spread = (expected * (1 - expected) / 4000).sqrt()
    assert ((first / 4000 - expected).abs() <= 4 * spread).all()
    assert draw_ranked(merits, 9, 0.7, generator).sort().values.tolist() == [0, 1, 3, 4]


def test_temperature_zero_takes_the_best() -> None:
    merits = torch.tensor([1.0, 0.0, -math.inf, 2.0])
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert draw_ranked(merits, 2, 0.0, generator).tolist() == [3, 0]
    assert draw_ranked(merits, 9, 0.0, generator).tolist() == [3, 0, 1]
    assert torch.equal(generator.get_state(), before)


# growing


@pytest.mark.parametrize("weight", [0.0, 1.0, 1e6])
def test_every_beam_gets_its_own_gradient_and_likelihood(
    image_only: Problem, weight: float
) -> None:
    # by the likelihood alone, by both, by the gradient alone
    options = AutoDAN(length=6, search_width=10, weight=weight, temperature=0, iterations=1)
    run = run_of(image_only, options, BEGINNINGS)
    states = run.search.select()
    proposals = run.method.propose(states)
    assert proposals is not None
    assert proposals.grown
    rows = proposals.prompts.to_lists()
    assert len(rows) == 10
    for state, mine in zip(states, (rows[:5], rows[5:]), strict=True):
        assert [tuple(row[:-1]) for row in mine] == [state.ids] * 5
        alone = run_of(image_only, options, [image_only.decode(state.ids).strip()])
        alone_rows = alone.method.propose(alone.search.select())
        assert alone_rows is not None
        # 5 of the 10 that the same prompt is given where no other beam is near
        assert mine == alone_rows.prompts.to_lists()[:5]
    assert {row[-1] for row in rows[:5]} != {row[-1] for row in rows[5:]}


def test_the_best_by_the_gradient_are_those_of_the_gradient(image_only: Problem) -> None:
    options = AutoDAN(length=6, search_width=5, weight=1e6, temperature=0, iterations=1)
    run = run_of(image_only, options, BEGINNINGS[:1])
    (state,) = run.search.select()
    assert isinstance(image_only.source, CausalModel)
    expected = Likelihood(image_only, image_only.source, Spent()).next_tokens([state.ids])[0]
    expected[~image_only.allowed] = -torch.inf
    provisional = Ragged.from_lists([[*state.ids, int(expected.argmax())]])
    scores = run.gradients.tokens(provisional, run.weights)[0, -1]
    scores[~image_only.allowed] = torch.inf
    proposals = run.method.propose([state])
    assert proposals is not None
    ranked = [(*state.ids, token) for token in scores.argsort().tolist()]
    survive = image_only.words.survives(Ragged.from_lists(ranked))
    wanted = [list(row) for row, good in zip(ranked, survive, strict=True) if good][:5]
    assert sorted(proposals.prompts.to_lists()) == sorted(wanted)


def test_iterations_end_where_the_best_stays(image_only: Problem) -> None:
    found = []
    for iterations in (1, 3, 50):
        options = AutoDAN(length=6, search_width=3, temperature=0, iterations=iterations)
        run = run_of(image_only, options, BEGINNINGS[:1])
        proposals = run.method.propose(run.search.select())
        assert proposals is not None
        totals = run.context.totals(proposals.prompts)
        found.append((run.spent.gradients, len(totals), float(totals.min())))
    gradients, proposed, best = zip(*found, strict=True)
    assert gradients[0] == 1
    assert 2 <= gradients[1] <= 3
    assert gradients[1] <= gradients[2] < 15  # far fewer than it was allowed
    assert proposed == tuple(3 * count for count in gradients)
    assert best[0] >= best[1] >= best[2]
    assert best[0] > best[2]


@pytest.mark.parametrize("search", [Greedy(), Beam(width=3), UniformCost(size=8)])
def test_it_grows_to_its_length(problem: Problem, search: SearchOptions) -> None:
    options = AutoDAN(length=7, search_width=12)
    result = optimize(problem, BEGINNINGS, method=options, search=search, budget=Budget(steps=60))
    assert result.stop is Stop.FINISHED
    lengths = [len(point.ids) for point in result.trajectory]
    assert lengths[-1] == 7
    if not isinstance(search, UniformCost):
        assert lengths == [2, 3, 4, 5, 6, 7]
    first = [tuple(problem.encode(text)) for text in BEGINNINGS]
    assert all(point.ids[:2] in first for point in result.trajectory)
    assert all(problem.allowed[list(point.ids[2:])].all() for point in result.trajectory)


def test_passes_are_counted(problem: Problem) -> None:
    options = AutoDAN(length=6, search_width=12, iterations=2)
    run = run_of(problem, options, BEGINNINGS, Beam(width=2))
    scored = run.spent.scored
    states = run.search.select()
    proposals = run.method.propose(states)
    assert proposals is not None
    spent = run.spent
    assert spent.predicted == 2
    assert 2 <= spent.gradients <= 4  # a prompt whose first iteration finds nothing has no second
    assert spent.scored - scored == len(proposals.prompts)
    assert spent.forward_passes == 2 + 2 * spent.gradients + spent.scored


def test_the_budget_limits_a_step(problem: Problem) -> None:
    budget = Budget(forward_passes=40)
    options = AutoDAN(length=12, search_width=16, iterations=4)
    result = optimize(problem, BEGINNINGS[:1], method=options, budget=budget)
    assert result.stop is Stop.FORWARD_PASSES
    # at most the first iteration of the last step, and a gradient, beyond it
    assert 40 <= result.spent["forward_passes"] < 40 + 16 + 3


def test_without_the_gradient_no_adapter_is_needed(
    lm: Model, clip: Model, image_path: Path
) -> None:
    terms = [Term(ImageSimilarity(images=image_path), clip)]
    problem = Problem(lm, terms, tokens=TokenFilter(words_only=True))
    options = AutoDAN(length=6, search_width=12, weight=0)
    result = optimize(problem, BEGINNINGS[0], method=options)
    assert result.spent["gradients"] == 0
    assert result.total < result.trajectory[0].total
    with pytest.raises(OptionError, match="no adapter from"):
        optimize(problem, BEGINNINGS[0], method=AutoDAN(length=6))


def test_a_sweep_revises_one_token_after_the_other(problem: Problem) -> None:
    options = AutoDAN(length=7, search_width=24, sweeps=2)
    result = optimize(problem, BEGINNINGS[0], method=options, budget=Budget(steps=100))
    assert result.stop is Stop.FINISHED
    assert result.spent["steps"] == 5 + 2 * 7
    revised = result.trajectory[5:]
    for number, (before, after) in enumerate(pairwise(revised)):
        changed = np.flatnonzero(np.array(before.ids) != np.array(after.ids))
        assert set(changed.tolist()) <= {number % 7}
        assert after.total <= before.total
    assert revised[-1].total < revised[0].total


def test_the_less_the_gradient_weighs_the_better_it_reads(lm: Model, image_only: Problem) -> None:
    fluency = Fluency().prepare(lm)
    steps = 7

    def written(weight: float) -> tuple[int, ...]:
        options = AutoDAN(length=9, search_width=4, weight=weight)
        found = optimize(image_only, BEGINNINGS[0], method=options, budget=Budget(steps=steps))
        assert len(found.trajectory) == steps + 1
        assert found.total < found.trajectory[0].total
        return found.trajectory[-1].ids

    rows = [list(written(weight)) for weight in (0.5, 50.0)]
    assert [len(row) for row in rows] == [9, 9]
    losses = fluency.score(rows)
    assert losses[0] < losses[1] - 0.5


# bad input


def test_the_source_must_write(clip: Model) -> None:
    problem = Problem(clip, [Term(TextSimilarity(texts="a red star"), clip)])
    with pytest.raises(
        ModelError,
        match=r"autodan: .*clip of kind 'clip' as the source; expected a causal language model",
    ):
        optimize(problem, "a blue moon", method=AutoDAN())


def test_initial_prompts_must_leave_room(problem: Problem) -> None:
    with pytest.raises(
        OptionError, match=r"autodan: an initial prompt of 2 tokens with length=1; expected"
    ):
        optimize(problem, BEGINNINGS[0], method=AutoDAN(length=1))


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"autodan: length=0; expected at least 1"):
        AutoDAN(length=0)
    with pytest.raises(OptionError, match=r"autodan: temperature=-1; expected at least 0"):
        AutoDAN(temperature=-1)
    with pytest.raises(OptionError, match=r"autodan: weight=-0.5; expected at least 0"):
        AutoDAN(weight=-0.5)
    with pytest.raises(OptionError, match=r"autodan: iterations=0; expected at least 1"):
        AutoDAN(iterations=0)
