"""Probe sampling: how far the draft is believed, what it lets through, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import CheckpointError, OptionError
from fuse_index.models import Model
from fuse_index.objectives import (
    ClassifierLabel,
    CustomTextObjective,
    Fluency,
    LengthPenalty,
    LengthUnit,
    TextSimilarity,
)
from fuse_index.optimize import (
    GCG,
    AutoDAN,
    Budget,
    Probe,
    Problem,
    RandomSearch,
    Spent,
    Term,
    TokenFilter,
    optimize,
)
from fuse_index.optimize.probe import ProbeSampler, agreement, filtered_size, mean_ranks
from fuse_index.optimize.scoring import Scorer
from fuse_index.words.ragged import Ragged
from tests.demo_models import START

VALUES = st.lists(st.integers(0, 6), min_size=2, max_size=12)


def rows_of(problem: Problem, count: int, seed: int = 0) -> Ragged:
    rng = np.random.default_rng(seed)
    rows = {tuple(rng.choice(np.flatnonzero(problem.allowed), 6).tolist()) for _ in range(count)}
    return Ragged.from_lists(sorted(rows))


def sampler(problem: Problem, terms: Sequence[Term], **options: float) -> ProbeSampler:
    generator = torch.Generator().manual_seed(0)
    return ProbeSampler(Probe(terms, **options), Scorer(problem, Spent()), generator)


# the pieces


@given(VALUES)
def test_mean_ranks_against_counting(values: list[int]) -> None:
    array = np.array(values, dtype=np.float64)
    expected = [
        sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values
    ]
    assert mean_ranks(array).tolist() == expected


@given(st.permutations(range(9)), st.permutations(range(9)))
def test_agreement_is_the_papers_formula_without_ties(a: list[int], b: list[int]) -> None:
    squares = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    expected = 1 - 3 * squares / (9 * (81 - 1))
    got = agreement(np.exp(np.array(a, dtype=float)), np.array(b, dtype=float) * 7 - 3)
    assert got == pytest.approx(expected)


def test_agreement_at_its_ends() -> None:
    rising = np.array([1.0, 2.0, 5.0, np.inf])
    assert agreement(rising, rising * 2) == pytest.approx(1)
    assert agreement(rising, rising[::-1]) == pytest.approx(0)
    assert agreement(np.zeros(4), rising) == 0.5


def test_filtered_size() -> None:
    assert filtered_size(512, 0.5, 8) == 32
    assert filtered_size(512, 0.0, 8) == 64
    assert filtered_size(512, 1.0, 8) == 1
    assert filtered_size(3, 0.0, 1) == 3


# what is scored


def test_a_perfect_draft_needs_the_probe_set_and_one(lm_problem: Problem) -> None:
    probe = sampler(lm_problem, [Term(Fluency(), lm_problem.source)])
    prompts = rows_of(lm_problem, 200)
    rows, losses = probe.score(prompts, lm_problem.weights)
    exact = Scorer(lm_problem, Spent()).score(prompts)
    size = round(len(prompts) / 16)
    assert len(rows) in (size, size + 1)
    assert exact.argmin() in rows
    np.testing.assert_allclose(losses, exact[rows], atol=1e-5)
    assert (np.diff(rows) > 0).all()
    spent = probe.scorer.spent
    assert (spent.draft, spent.scored, spent.forward_passes) == (len(prompts), len(rows), len(rows))


def test_a_contrary_draft_lets_through_more_and_still_its_own_best(lm_problem: Problem) -> None:
    probe = sampler(lm_problem, [Term(Fluency(weight=-1.0), lm_problem.source)])
    prompts = rows_of(lm_problem, 200)
    rows, _ = probe.score(prompts, lm_problem.weights)
    exact = Scorer(lm_problem, Spent()).score(prompts)[:, 0]
    wanted = set(np.argsort(-exact, kind="stable")[: len(prompts) // 8].tolist())
    assert wanted <= set(rows.tolist())
    assert len(rows) <= len(wanted) + round(len(prompts) / 16)


def test_the_probe_set_is_random_and_by_the_seed(lm_problem: Problem) -> None:
    prompts = rows_of(lm_problem, 200)
    found = []
    for seed in (0, 0, 1):
        probe = sampler(lm_problem, [Term(Fluency(), lm_problem.source)], share=0.25)
        probe.generator.manual_seed(seed)
        found.append(probe.score(prompts, lm_problem.weights)[0].tolist())
    assert found[0] == found[1] != found[2]
    assert len(found[0]) in (50, 51)


def test_what_is_known_costs_nothing_and_comes_along(lm_problem: Problem) -> None:
    probe = sampler(lm_problem, [Term(Fluency(), lm_problem.source)])
    prompts = rows_of(lm_problem, 200)
    known = np.array([3, 50, 120])
    probe.scorer.score(prompts.select(known))
    rows, _ = probe.score(prompts, lm_problem.weights)
    assert set(known.tolist()) <= set(rows.tolist())
    assert probe.scorer.spent.draft == len(prompts) - 3
    assert probe.scorer.spent.scored == len(rows)


def test_few_candidates_are_all_scored(lm_problem: Problem) -> None:
    probe = sampler(lm_problem, [Term(Fluency(), lm_problem.source)])
    prompts = rows_of(lm_problem, 4)
    rows, losses = probe.score(prompts, lm_problem.weights)
    assert rows.tolist() == list(range(len(prompts)))
    assert losses.shape == (len(prompts), 1)
    assert probe.scorer.spent.draft == 0


def test_drafts_of_other_tokens(problem: Problem, clip: Model, sentiment: Model, lm: Model) -> None:
    # no adapter anywhere: the drafts read the text
    similar = Term(TextSimilarity(texts="a star", weight=2.0), clip)
    positive = Term(ClassifierLabel(label="positive", weight=0.5), sentiment)
    probe = sampler(problem, [similar, positive], reduction=1)
    prompts = rows_of(problem, 100)
    rows, _ = probe.score(prompts, problem.weights)
    texts = [problem.decode(row) for row in prompts.to_lists()]
    draft = sum(
        term.objective.weight
        * term.objective.prepare(term.model).score(
            [term.model.words.encode_text(text) for text in texts]
        )
        for term in (similar, positive)
    )
    assert isinstance(draft, torch.Tensor)
    generator = torch.Generator().manual_seed(0)
    count = len(prompts)
    probed = torch.randperm(count, generator=generator)[: round(count / 16)].tolist()
    ranks = draft.argsort().argsort()
    passed = sorted(int(ranks[row]) for row in rows if row not in probed)
    assert set(probed) <= set(rows.tolist())
    assert 3 < passed[-1] < count - 1
    assert len(passed) >= passed[-1] + 1 - len(probed)  # the best, without gaps
    assert 0 in {int(ranks[row]) for row in rows}


def test_prompts_without_room_in_the_draft_come_last(lm: Model, clip: Model) -> None:
    problem = Problem(lm, [Term(Fluency(), lm)], tokens=TokenFilter(words_only=True))
    long = list(problem.encode(START)) * 6  # 54 tokens; CLIP has 48 positions
    short = rows_of(problem, 40).to_lists()
    prompts = Ragged.from_lists([long, *short])
    probe = sampler(problem, [Term(TextSimilarity(texts="a star"), clip)])
    probe.generator.manual_seed(2)
    rows, losses = probe.score(prompts, problem.weights)
    assert len(rows) < len(prompts) / 2
    assert np.isfinite(losses).all()


# in a run


@pytest.mark.parametrize(
    "method",
    [
        GCG(search_width=64, top_k=48, draw="uniform", positions=0, memory=0),
        RandomSearch(search_width=64),
        AutoDAN(length=11, search_width=40, iterations=2),
    ],
)
def test_a_run_costs_less_and_gets_somewhere(
    problem: Problem, method: GCG | RandomSearch | AutoDAN
) -> None:
    draft = [Term(term.objective, term.model) for term in problem.terms[1:]]
    budget = Budget(steps=3)
    plain, probed = (
        optimize(problem, START, method=method, budget=budget, probe=probe)
        for probe in (None, Probe(draft))
    )
    assert probed.total < probed.trajectory[0].total
    assert probed.spent["scored"] < plain.spent["scored"] / 3
    assert probed.spent["draft"] > probed.spent["scored"]
    assert plain.spent["draft"] == 0


def test_it_is_part_of_the_configuration_and_of_checkpoints(
    problem: Problem, lm: Model, tmp_path: Path
) -> None:
    def run(steps: int, path: Path | None, share: float = 0.1) -> dict[str, object]:
        result = optimize(
            problem,
            START,
            method=GCG(search_width=40, memory=8),
            probe=Probe([Term(Fluency(), lm)], share=share),
            budget=Budget(steps=steps),
            checkpoint=path,
        )
        values = result.to_json()
        values["spent"].pop("seconds")
        for point in values["trajectory"]:
            point.pop("seconds")
        return values

    path = tmp_path / "run.checkpoint"
    run(3, path)
    resumed, straight = run(6, path), run(6, None)
    assert resumed == straight
    assert straight["configuration"]["probe"]["share"] == 0.1  # type: ignore[index]
    with pytest.raises(CheckpointError, match=r"probe.share = 0.1; expected 0.2"):
        run(9, path, share=0.2)


def test_a_draft_without_gradient_may_be_anything(problem: Problem, lm: Model) -> None:
    stars = CustomTextObjective(function=lambda texts: [-t.count("star") for t in texts])
    length = LengthPenalty(maximum=40, unit=LengthUnit.CHARACTERS)
    probe = Probe([Term(stars, lm), Term(length, lm)])
    result = optimize(
        problem, START, method=GCG(search_width=64), probe=probe, budget=Budget(steps=2)
    )
    assert result.spent["draft"] > 0


def test_bad_options(lm: Model) -> None:
    term = Term(Fluency(), lm)
    with pytest.raises(OptionError, match=r"probe: no terms; expected the draft's objectives"):
        Probe([])
    with pytest.raises(OptionError, match=r"probe: share=0; expected more than 0"):
        Probe([term], share=0)
    with pytest.raises(OptionError, match=r"probe: reduction=0.5; expected at least 1"):
        Probe([term], reduction=0.5)
