"""Predictions for tokens: at one-hot tokens, through adapters, and by layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.errors import OptionError
from fuse_index.models import load_model
from fuse_index.objectives import Fluency, ImageSimilarity, TargetContinuation, TokenReduction
from fuse_index.optimize import Problem, Spent, Term, TokenFilter, Unit
from fuse_index.predict import Gradients, Predictor, TokenUnits, unit_predictor
from fuse_index.predict.token_predictor import TokenPredictor
from fuse_index.words.ragged import Ragged
from tests.demo_models import START
from tests.predict.helpers import cut_gradient

POSITIONS = [6, 0, 3]


def predictor_of(problem: Problem, predictor: str) -> TokenPredictor:
    gradients = Gradients(problem, Spent())
    found = unit_predictor(gradients, problem.units(Unit.TOKEN), Predictor(predictor))
    assert isinstance(found, TokenPredictor)
    return found


def without_constant(changes: torch.Tensor) -> torch.Tensor:
    return (changes - changes.mean(dim=-1, keepdim=True)).double()


def ranked(tokens: TokenPredictor, weights: np.ndarray, text: str = START) -> torch.Tensor:
    ids = tokens.problem.encode(text)
    (found,) = tokens.rank([tokens.units.spans(ids)], [POSITIONS], weights)
    (ranking,) = found
    return ranking.changes


def label_part(problem: Problem, position: int, sum_up: bool) -> torch.Tensor:
    """The negative log-likelihood with every token in turn as the label of a position."""
    lm, ids = problem.source, problem.encode(START)
    row = torch.tensor([[*lm.frame.head, *ids]])
    with torch.no_grad():
        log_probs = lm.module(input_ids=row).logits[0].double().log_softmax(dim=-1)
    first = len(lm.frame.head)
    found = []
    for token in problem.units(Unit.TOKEN).firsts.tolist():
        labels = row[0].clone()
        labels[first + position] = token
        likely = log_probs[first - 1 : -1].gather(1, labels[first:, None])
        found.append(float(-likely.sum() if sum_up else -likely.mean()))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.smoke
def test_tokens_are_ranked_by_the_one_hot_gradient_in_one_pass(problem):
    tokens = predictor_of(problem, "adapter")
    found = ranked(tokens, problem.weights)
    assert tokens.gradients.spent.gradients == 1
    prompts = Ragged.from_lists([problem.encode(START)])
    scores = Gradients(problem, Spent()).tokens(prompts, problem.weights)[0]
    expected = scores[POSITIONS][:, torch.from_numpy(problem.allowed)]
    torch.testing.assert_close(found, expected)


def test_the_ranking_knows_which_tokens_stand(problem, lm):
    tokens = predictor_of(problem, "adapter")
    spans = tokens.units.spans(problem.encode(START))
    ((ranking,),) = tokens.rank([spans], [POSITIONS], problem.weights)
    standing = [int(tokens.units.firsts[i]) for i in ranking.standing.tolist()]
    assert standing == [spans.ids[i] for i in POSITIONS]
    torch.testing.assert_close(tokens.vectors()[0], lm.table()[tokens.units.firsts].float())


@pytest.mark.parametrize("reduction", [TokenReduction.SUM, TokenReduction.MEAN])
def test_layers_of_a_fluency_term_are_states_and_labels(lm, reduction):
    terms = [Term(Fluency(reduction=reduction), lm)]
    problem = Problem(lm, terms, tokens=TokenFilter(words_only=True))
    tokens = predictor_of(problem, "layers")
    found = ranked(tokens, np.array([1.5]))
    assert tokens.gradients.spent.gradients == len(POSITIONS)
    ids = problem.encode(START)
    for position, own in zip(POSITIONS, found, strict=True):
        gradient = cut_gradient(problem.losses[0], ids, position, position + 1)
        expected = 1.5 * (tokens.units.states(lm) @ gradient).double()
        expected += 1.5 * label_part(problem, position, reduction is TokenReduction.SUM)
        difference = without_constant(own) - without_constant(expected)
        assert float(difference.abs().max()) < 2e-3 * float(expected.std())


@pytest.mark.parametrize("twin", [False, True])
def test_layers_of_a_target_that_follows_have_no_labels(lm, twin):
    """The prompt's tokens are no labels there; a twin of the source needs no adapter."""
    model = load_model(lm.name, device="cpu") if twin else lm
    goal = Term(TargetContinuation(target=" circle on the left"), model)
    problem = Problem(lm, [goal], tokens=TokenFilter(words_only=True))
    tokens = predictor_of(problem, "layers")
    found = ranked(tokens, np.ones(1))
    for position, own in zip(POSITIONS, found, strict=True):
        gradient = cut_gradient(problem.losses[0], problem.encode(START), position, position + 1)
        expected = tokens.units.states(model) @ gradient
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)


def test_layers_take_targets_with_other_tokens_through_their_adapter(problem):
    tokens = predictor_of(problem, "layers")
    weights = np.array([0.7, 3.0])
    found = ranked(tokens, weights)
    assert tokens.gradients.spent.gradients == len(POSITIONS)
    by_layers = ranked(tokens, np.array([0.7, 0.0]))
    through = ranked(predictor_of(problem, "adapter"), np.array([0.0, 3.0]))
    assert through.std() > 0
    torch.testing.assert_close(found, by_layers + through, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("predictor", ["adapter", "layers"])
def test_many_prompts_are_predicted_as_each_alone(problem, predictor):
    tokens = predictor_of(problem, predictor)
    texts = [START, "a small red star", "the circle"]
    positions = np.array([3, 2, 1])
    prompts = [problem.encode(text) for text in texts]
    found = tokens.at(Ragged.from_lists(prompts), positions, problem.weights, mean=False)
    assert tokens.gradients.spent.gradients == 3
    for ids, position, own in zip(prompts, positions.tolist(), found, strict=True):
        spans = tokens.units.spans(ids)
        ((ranking,),) = tokens.rank([spans], [[position]], problem.weights)
        torch.testing.assert_close(own, ranking.changes[0], rtol=1e-3, atol=1e-4)


def test_embeddings_rank_only_tokens_of_models_with_the_same(lm, lm_problem, problem):
    ours = ranked(predictor_of(lm_problem, "embedding"), np.ones(1))
    torch.testing.assert_close(ours, ranked(predictor_of(lm_problem, "adapter"), np.ones(1)))
    with pytest.raises(OptionError, match=r"predictor 'embedding' for tokens.*unit 'word'"):
        predictor_of(problem, "embedding")


def test_a_mixture_is_for_words(problem):
    with pytest.raises(OptionError, match="predictor 'mixture' with unit 'token'; expected adapt"):
        predictor_of(problem, "mixture")


@pytest.mark.parametrize("predictor", ["adapter", "layers"])
def test_a_target_with_other_tokens_needs_an_adapter(lm, clip, image, predictor):
    terms = [Term(Fluency(), lm), Term(ImageSimilarity(images=image), clip)]
    with pytest.raises(OptionError, match="no adapter from"):
        predictor_of(Problem(lm, terms), predictor)


def test_predictors_and_units_say_what_they_need():
    assert Predictor.LAYERS.needs_adapters(Unit.TOKEN)
    assert not Predictor.LAYERS.needs_adapters(Unit.WORD)
    for unit in Unit:
        assert not Predictor.EMBEDDING.needs_adapters(unit)
        assert Predictor.ADAPTER.needs_adapters(unit)
    assert Predictor.MIXTURE.needs_adapters(Unit.WORD)
    assert TokenUnits.unit is Unit.TOKEN
