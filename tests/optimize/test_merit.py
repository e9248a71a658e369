"""Merits: likely for the source and helpful by the gradient; and draws by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fuse_index.errors import ModelError, OptionError
from fuse_index.objectives import Fluency, ImageSimilarity, TextSimilarity
from fuse_index.optimize import (
    Greedy,
    Predictor,
    Problem,
    RandomSearch,
    Run,
    RunOptions,
    Spent,
    Term,
    TokenFilter,
    Unit,
)
from fuse_index.optimize.merit import UnitMerit, draw_ranked, merits_of
from fuse_index.predict.likelihood import Likelihood
from fuse_index.words.ragged import Ragged
from tests.demo_models import BASE
from tests.predict.helpers import word_predictor


@pytest.fixture(scope="module")
def problem(lm, clip, clip_adapter, image_path) -> Problem:
    """Fluent, and like the picture."""
    likeness = Term(ImageSimilarity(images=image_path, weight=14.0), clip, clip_adapter)
    return Problem(
        lm, [Term(Fluency(include_end=True), lm), likeness], tokens=TokenFilter(words_only=True)
    )


def merit_of(
    problem: Problem,
    predictor: str | None = "embedding",
    weight: float = 2.0,
    unit: Unit = Unit.WORD,
) -> UnitMerit:
    initial = [problem.encode(BASE)]
    run = Run(problem, initial, method=RandomSearch(), search=Greedy(), options=RunOptions())
    chosen = None if predictor is None else Predictor(predictor)
    return UnitMerit(run.context, problem.units(unit), chosen, weight, "moves")


def standardized(change: torch.Tensor) -> torch.Tensor:
    return (change - change.mean(1, keepdim=True)) / change.std(1, correction=0, keepdim=True)


def test_merits_are_likelihood_less_standardized_change() -> None:
    generator = torch.Generator().manual_seed(0)
    likelihoods = torch.randn(20, generator=generator)
    gradient = torch.randn(20, generator=generator) * 1e-6
    got = merits_of(likelihoods, gradient, 2.5)
    own = gradient.double().numpy()
    for token in range(20):
        change = (float(gradient[token]) - own.mean()) / own.std()
        assert float(got[token]) == pytest.approx(
            float(likelihoods[token]) - 2.5 * change, abs=1e-4
        )
    assert torch.equal(
        merits_of(likelihoods, gradient * 1e6, 2.5).topk(5).indices, got.topk(5).indices
    )
    assert torch.equal(merits_of(likelihoods, torch.zeros(20), 2.5), likelihoods)
    assert torch.equal(merits_of(likelihoods, None, 2.5), likelihoods)
    rows = merits_of(likelihoods.reshape(2, 10), gradient.reshape(2, 10), 2.5)
    for row, likely, change in zip(rows, likelihoods.split(10), gradient.split(10), strict=True):
        torch.testing.assert_close(row, merits_of(likely, change, 2.5))


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


@pytest.mark.parametrize("predictor", list(Predictor))
def test_a_merit_is_likelihood_less_the_standardized_change_of_the_other_terms(problem, predictor):
    """The likelihood of a word counts once: the fluency of the source takes no part."""
    merit = merit_of(problem, predictor)
    spans = merit.units.spans(problem.encode(BASE))
    spent = merit.context.gradients.spent
    got = merit.instead(spans)
    assert (spent.predicted, spent.gradients) == (1, len(spans))
    likely = Likelihood(problem, Spent(), "moves").along(spans.ids)[spans.offsets[:-1]]
    rows = Ragged.from_lists([spans.ids] * len(spans))
    weights = np.array([0.0, 14.0])

    def change(kind: str) -> torch.Tensor:
        found = word_predictor(problem, kind).at(rows, np.arange(len(spans)), weights, mean=True)
        return standardized(found.double())

    kinds = ["embedding", "adapter"] if predictor is Predictor.MIXTURE else [predictor]
    whole = standardized(sum(change(kind) for kind in kinds))
    expected = likely[:, merit.units.firsts].double() - 2 * whole
    torch.testing.assert_close(got.double(), expected, atol=2e-3, rtol=1e-3)


def test_units_are_judged_behind_instead_and_between(problem):
    merit = merit_of(problem)
    ids = problem.encode("a red star")
    spans = merit.units.spans(ids)
    behind = merit.behind([ids, problem.encode("the")])
    between, instead = merit.between(spans), merit.instead(spans)
    assert behind.shape == (2, len(merit.units))
    assert between.shape == (len(spans) + 1, len(merit.units))
    assert instead.shape == (len(spans), len(merit.units))
    torch.testing.assert_close(between[-1], behind[0], atol=1e-3, rtol=1e-3)
    # before the second word stands what stands before it where it is replaced
    alone = merit.instead(merit.units.spans(problem.encode("a red")))
    torch.testing.assert_close(
        merit.likelihood.along(ids)[1], merit.likelihood.along(ids[:2])[1], atol=1e-4, rtol=1e-4
    )
    assert alone.shape == (2, len(merit.units))


@pytest.mark.parametrize("unit", list(Unit))
def test_without_weight_a_merit_is_the_likelihood_and_costs_no_gradient(problem, unit):
    merit = merit_of(problem, "adapter", weight=0.0, unit=unit)
    spent = merit.context.gradients.spent
    ids = problem.encode("a small")
    got = merit.behind([ids])[0]
    likely = Likelihood(problem, Spent(), "moves").next_tokens([ids])[0, merit.units.firsts]
    torch.testing.assert_close(got, likely)
    between = merit.between(merit.units.spans(ids))
    torch.testing.assert_close(between[-1], likely, atol=1e-4, rtol=1e-4)
    assert between.shape == (3, len(merit.units))
    assert spent.gradients == 0
    assert (
        merit_of(problem, None).changes(Ragged.from_lists([ids]), np.array([0]), mean=True) is None
    )


def test_without_another_term_the_likelihood_alone_counts(lm_problem):
    merit = merit_of(lm_problem, "layers", unit=Unit.TOKEN)
    ids = lm_problem.encode("a red")
    likely = merit.likelihood.next_tokens([ids])[0, merit.units.firsts]
    torch.testing.assert_close(merit.behind([ids])[0], likely)
    assert merit.context.gradients.spent.gradients == 0


def test_a_prompt_without_room_for_another_word_is_judged_by_likelihood(problem, clip):
    merit = merit_of(problem)
    long = problem.encode("star " * (clip.positions - 3) + "star")
    likely = Likelihood(problem, Spent(), "moves").next_tokens([long])[0, merit.units.firsts]
    torch.testing.assert_close(merit.behind([long])[0], likely)


def test_tokens_are_judged_with_the_gradient_at_those_that_stand(problem):
    merit = merit_of(problem, "adapter", unit=Unit.TOKEN)
    rows = Ragged.from_lists([problem.encode("a red star")] * 2)
    found = merit.changes(rows, np.array([1, 2]), mean=False)
    scores = merit.context.gradients.tokens(rows, np.array([0.0, 14.0]))
    expected = torch.stack([scores[0, 1], scores[1, 2]])[:, torch.from_numpy(problem.allowed)]
    torch.testing.assert_close(found, expected)


def test_what_cannot_be_judged_is_refused(lm, clip, image):
    writes_not = Problem(clip, [Term(TextSimilarity(texts="a star"), clip)], words=["star"])
    with pytest.raises(ModelError, match=r"moves: .* as the source; expected a causal"):
        merit_of(writes_not)
    no_adapter = Problem(lm, [Term(ImageSimilarity(images=image), clip)], words=["star"])
    merit_of(no_adapter, "layers")
    with pytest.raises(OptionError, match="no adapter"):
        merit_of(no_adapter, "adapter")
