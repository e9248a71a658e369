"""Predictions for tokens: at one-hot tokens, in own tokens, through adapters, by layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.errors import OptionError
from fuse_index.evaluate.ranking import spearman
from fuse_index.models import load_model
from fuse_index.objectives import Fluency, ImageSimilarity, TargetContinuation, TokenReduction
from fuse_index.optimize import Problem, Spent, Term, TokenFilter, Unit
from fuse_index.predict import Gradients, Predictor, TokenUnits, unit_predictor
from fuse_index.predict.states import hidden_states
from fuse_index.predict.token_predictor import TokenPredictor
from fuse_index.predict.units import mean_vectors
from fuse_index.words.ragged import Ragged
from tests.demo_models import BASE, START
from tests.predict.helpers import cut_gradient, word_gradient

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


@pytest.mark.smoke
def test_embeddings_rank_tokens_by_those_of_their_words_in_the_target(clip_only, clip):
    """The gradient of the word's tokens times the mean embedding of each token's own tokens."""
    tokens = predictor_of(clip_only, "embedding")
    found = ranked(tokens, np.ones(1), BASE)
    assert tokens.gradients.spent.gradients == 1
    ids, own = clip_only.encode(BASE), tokens.units.own(clip_only.targets[0])
    words = clip_only.targets[0].read(Ragged.from_lists([ids])).words
    for at, changes in zip(POSITIONS, found, strict=True):
        word = int(np.searchsorted(words.source_word_offsets, at, side="right")) - 1
        gradient = word_gradient(clip_only, BASE, word).sum(0)
        rows = own.rows.select((own.first if at == 0 else own.inside).clamp(max=len(own.rows) - 1))
        expected = mean_vectors(rows, clip.table()) @ gradient
        known = (own.first if at == 0 else own.inside) < len(own.rows)
        torch.testing.assert_close(changes[known], expected[known], rtol=1e-3, atol=1e-6)


def test_layers_rank_tokens_by_the_states_of_their_own_tokens(clip_only, clip):
    tokens = predictor_of(clip_only, "layers")
    found = ranked(tokens, np.ones(1))
    assert tokens.gradients.spent.gradients == len(POSITIONS)
    content = clip.words.encode_running([START])[0].tolist()
    own = tokens.units.own(clip_only.targets[0])
    states = hidden_states(clip, own.rows)
    for at, changes in zip(POSITIONS, found, strict=True):
        rows = own.first if at == 0 else own.inside
        gradient = cut_gradient(clip_only.losses[0], content, at, at + 1)
        known = rows < len(own.rows)
        expected = states[rows[known]] @ gradient
        torch.testing.assert_close(changes[known], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("predictor", ["embedding", "layers"])
def test_similarity_is_that_of_own_tokens_in_the_target(clip_only, lm, clip, predictor):
    tokens = predictor_of(clip_only, predictor)
    (vectors,) = tokens.vectors()
    own = tokens.units.own(clip_only.targets[0])
    known = own.inside < len(own.rows)
    expected = mean_vectors(own.rows, clip.table())[own.inside[known]]
    torch.testing.assert_close(vectors[known], expected)
    torch.testing.assert_close(vectors[~known][0], mean_vectors(own.rows, clip.table()).mean(0))
    assert tokens.vectors()[0] is vectors
    assert predictor_of(clip_only, "adapter").vectors()[0].shape[1] == lm.width


@pytest.mark.parametrize("predictor", ["embedding", "layers"])
def test_terms_are_summed_by_their_weights(problem, predictor):
    tokens = predictor_of(problem, predictor)
    found = ranked(tokens, np.array([0.7, 3.0]))
    parts = [ranked(tokens, np.eye(2)[i]) for i in range(2)]
    assert all(part.std() > 0 for part in parts)
    torch.testing.assert_close(found, 0.7 * parts[0] + 3.0 * parts[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("predictor", ["embedding", "layers"])
def test_own_tokens_predict_the_true_change(clip_only, predictor):
    """Every token of a word in turn, scored as text by the target."""
    problem = Problem(clip_only.source, clip_only.terms, tokens=TokenFilter(words_only=True))
    tokens = predictor_of(problem, predictor)
    spans = tokens.units.spans(problem.encode(START))
    units = np.arange(len(tokens.units))[:, None]
    correlations = []
    for position in range(len(spans)):
        ((ranking,),) = tokens.rank([spans], [[position]], np.ones(1))
        rows = tokens.units.replaced(spans, np.full_like(units, position), units)
        losses = problem.losses[0].score(problem.targets[0].read(rows).contents)
        correlations.append(spearman(ranking.changes[0].numpy(), losses.numpy()))
    assert np.mean(correlations) > (0.4 if predictor == "layers" else 0.2)


@pytest.mark.parametrize("predictor", ["adapter", "embedding", "layers"])
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


def test_positions_of_prompts_in_any_order_and_parts(clip_only):
    """Prompts of one backward pass each; a prompt's positions together or apart."""
    tokens = predictor_of(clip_only, "embedding")
    prompts = [tokens.units.spans(clip_only.encode(own)) for own in (START, BASE, "the circle")]
    positions = [[4, 0], [], [1, 0, 1]]
    every = tokens.rank(prompts, positions, np.ones(1))
    small = Gradients(clip_only, Spent(), batch_size=1)
    alone = unit_predictor(small, tokens.units, Predictor.EMBEDDING)
    found = alone.rank(prompts, positions, np.ones(1))
    for own, other, at in zip(every, found, positions, strict=True):
        assert own[0].changes.shape == (len(at), len(tokens.units))
        torch.testing.assert_close(own[0].changes, other[0].changes, rtol=1e-3, atol=1e-5)
        assert own[0].standing.tolist() == other[0].standing.tolist()
    last = every[2][0].changes
    torch.testing.assert_close(last[0], last[2])
    given = tokens.at(
        Ragged.from_lists([prompts[2].ids, prompts[0].ids]), np.array([1, 4]), np.ones(1), mean=True
    )
    torch.testing.assert_close(given, torch.stack([last[0], every[0][0].changes[0]]))


def test_embeddings_of_the_sources_tokens_are_its_one_hot_gradient(lm_problem):
    ours = ranked(predictor_of(lm_problem, "embedding"), np.ones(1))
    torch.testing.assert_close(ours, ranked(predictor_of(lm_problem, "adapter"), np.ones(1)))


def test_a_mixture_is_for_words(problem):
    with pytest.raises(OptionError, match="predictor 'mixture' with unit 'token'; expected adapt"):
        predictor_of(problem, "mixture")


def test_only_the_adapter_needs_an_adapter(lm, clip, image):
    terms = [Term(Fluency(), lm), Term(ImageSimilarity(images=image), clip)]
    without = Problem(lm, terms)
    with pytest.raises(OptionError, match="no adapter from"):
        predictor_of(without, "adapter")
    for predictor in ("embedding", "layers"):
        assert ranked(predictor_of(without, predictor), np.array([0.0, 1.0])).std() > 0


def test_predictors_say_what_they_need():
    needing = [predictor for predictor in Predictor if predictor.needs_adapters]
    assert needing == [Predictor.ADAPTER, Predictor.MIXTURE]
    assert TokenUnits.unit is Unit.TOKEN
