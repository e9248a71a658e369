"""Predictions for words: at embeddings, through adapters, by layers, with the mean word."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.errors import OptionError
from fuse_index.evaluate.ranking import spearman
from fuse_index.objectives import ImageSimilarity
from fuse_index.optimize import Problem, Spent, Term
from fuse_index.predict import Gradients, Predictor, unit_predictor
from fuse_index.predict.spans import span_gradients
from fuse_index.words.ragged import Ragged
from tests.adapter.helpers import apply_word
from tests.demo_models import BASE
from tests.predict.helpers import WORDS, cut_gradient, word_gradient, word_predictor, word_vector

ONE = np.ones(1)


@pytest.fixture(scope="module")
def words(clip_only):
    return word_predictor(clip_only)


@pytest.mark.smoke
@pytest.mark.parametrize("position", [0, 4, 8])
def test_predictions_against_sums_word_by_word(clip_only, words, position, clip, lm):
    """The summed gradient times each candidate's mean embedding, or what the adapter makes it."""
    gradient = word_gradient(clip_only, BASE, position).sum(0)
    taken = words.gradients_at(words.units.spans(clip_only.encode(BASE)), [position], ONE)
    (sums,) = taken.values()
    torch.testing.assert_close(sums[0], gradient, rtol=1e-3, atol=1e-6)
    in_words = words.changes(Predictor.EMBEDDING, taken)[0]
    adapted = words.changes(Predictor.ADAPTER, taken)[0]
    adapter = clip_only.targets[0].adapter
    for row in range(0, len(words.units), 17):
        word = words.units.words[row]
        expected = float(gradient @ word_vector(clip, word))
        assert float(in_words[row]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
        p, q = (int(m.words.encode_words([word]).lengths[0]) for m in (lm, clip))
        source = lm.table()[lm.words.encode_words([word]).values.tolist()].double()
        group = adapter.group_names[int(adapter.group_of(np.array([p]), np.array([q]))[0])]
        mapped = apply_word(adapter[group].double(), source, q).mean(0)
        expected = float(gradient.double() @ mapped)
        assert float(adapted[row]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_current_word_is_predicted_to_change_nothing(clip_only, words):
    spans = words.units.spans(clip_only.encode(BASE))
    taken = words.gradients_at(spans, range(len(spans)), ONE)
    change = words.changes(Predictor.EMBEDDING, taken)
    target = clip_only.targets[0]
    current = words.units.words_of(spans, target)
    for position, word in enumerate(BASE.split()):
        here = float(taken[target][position] @ current[position])
        assert float(change[position, words.units.words.index(word)]) == pytest.approx(
            here, abs=1e-5
        )


def test_positions_can_be_chosen(clip_only, words):
    spans = words.units.spans(clip_only.encode(BASE))
    target = clip_only.targets[0]
    every = words.gradients_at(spans, range(len(spans)), ONE)[target]
    before = words.gradients.spent.gradients
    some = words.gradients_at(spans, [7, 2], ONE)[target]
    assert words.gradients.spent.gradients == before + 1
    torch.testing.assert_close(some, every[[7, 2]])


def test_the_mean_word_stands_in_the_position(clip_only, words, clip):
    position, mean = 5, words.units.mean(clip)
    tokens = clip.words.encode_words(BASE.split())
    spans = np.array([tokens.offsets[position : position + 2]])
    rows = Ragged.from_lists([tokens.values.tolist()])
    _, sums = span_gradients(clip_only.losses[0], rows, spans, mean=mean)
    prompts = Ragged.from_lists([clip_only.encode(BASE)])
    found = words.at(prompts, np.array([position]), ONE, mean=True)
    torch.testing.assert_close(found, sums @ words.units.vectors(clip).T, rtol=1e-4, atol=1e-6)
    other = BASE.replace(" circle", " gorgeous")  # whatever stands there
    prompts = Ragged.from_lists([clip_only.encode(other)])
    again = words.at(prompts, np.array([position]), ONE, mean=True)
    torch.testing.assert_close(found, again, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("predictor", ["embedding", "adapter", "layers", "mixture"])
def test_many_prompts_are_predicted_as_each_alone(problem, predictor):
    words = word_predictor(problem, predictor, WORDS)
    texts = [BASE, "a lovely red star above the blue square", "the circle"]
    positions = np.array([4, 2, 1])
    prompts = [problem.encode(text) for text in texts]
    found = words.at(Ragged.from_lists(prompts), positions, problem.weights, mean=False)
    assert words.gradients.spent.gradients == 3
    for ids, position, own in zip(prompts, positions, found, strict=True):
        ranked = words.rank([words.units.spans(ids)], [[int(position)]], problem.weights)[0]
        changes = [ranking.changes[0] for ranking in ranked]
        if predictor == "mixture":  # in standard deviations
            changes = [change / change.std() for change in changes]
        torch.testing.assert_close(own, sum(changes), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("predictor", ["embedding", "layers"])
def test_terms_of_the_source_and_of_targets_are_one_prediction(problem, predictor):
    words = word_predictor(problem, predictor, WORDS)
    spans = words.units.spans(problem.encode(BASE))

    def ranked(*weights: float) -> torch.Tensor:
        return words.rank([spans], [range(len(spans))], np.array(weights))[0][0].changes

    alone = [ranked(1.0, 0.0), ranked(0.0, 1.0)]
    assert all(bool(own.abs().sum() > 0) for own in alone)
    expected = 0.2 * alone[0] + 3.0 * alone[1]
    torch.testing.assert_close(ranked(0.2, 3.0), expected, rtol=1e-3, atol=1e-4)


def test_adapters_rank_only_targets_with_other_tokens(problem, lm):
    """The source's own terms are ranked by its embeddings, whatever the predictor."""
    weights = np.array([1.0, 0.0])
    spans = problem.word_units.spans(problem.encode(BASE))
    found = [
        word_predictor(problem, kind).rank([spans], [[4]], weights)[0][0].changes
        for kind in ("embedding", "adapter")
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("position", [0, 4, 8])
def test_layers_are_gradients_times_states(clip_only, clip, position):
    words = word_predictor(clip_only, "layers", WORDS)
    spans = words.units.spans(clip_only.encode(BASE))
    before = words.gradients.spent.gradients
    found = words.rank([spans], [[position]], np.array([2.0]))[0][0].changes[0]
    assert words.gradients.spent.gradients == before + 1
    rows = clip.words.encode_words(BASE.split())
    begin, end = rows.offsets[position : position + 2].tolist()
    gradient = cut_gradient(clip_only.losses[0], rows.values.tolist(), begin, end)
    expected = 2.0 * words.units.states(clip) @ gradient
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(words.vectors()[0], words.units.states(clip))


def test_layers_predict_better_than_the_gradient_at_the_embedding(clip_only, clip):
    """True changes of all words in every position: rank correlation, averaged over positions."""
    parts = BASE.split()
    found = {}
    for kind in ("embedding", "layers"):
        words = word_predictor(clip_only, kind)
        spans = words.units.spans(clip_only.encode(BASE))
        found[kind] = words.rank([spans], [range(len(spans))], ONE)[0][0].changes
    scores: dict[str, list[float]] = {kind: [] for kind in found}
    for position in range(len(parts)):
        texts = [
            " ".join([*parts[:position], word, *parts[position + 1 :]])
            for word in clip_only.word_units.words
        ]
        rows = Ragged.from_lists([clip.words.encode_text(text) for text in texts])
        true = clip_only.losses[0].score(rows).double().numpy()
        for kind, own in scores.items():
            own.append(spearman(found[kind][position].double().numpy(), true))
    assert np.mean(scores["layers"]) > np.mean(scores["embedding"]) + 0.1


def test_words_that_join_predict_nothing(problem, monkeypatch):
    """A prompt whose words join in a model's tokens is predicted to change nothing there."""
    words = word_predictor(problem, "embedding", WORDS)
    spans = words.units.spans(problem.encode(BASE))
    cut = type(words)._cut

    def joining(self, target, prompts):
        contents, offsets, first = cut(self, target, prompts)
        if target.is_source:
            return contents, offsets, first
        return contents, np.delete(offsets, 1), first - (first > 0)

    monkeypatch.setattr(type(words), "_cut", joining)
    weights = np.array([0.0, 1.0])
    assert not words.rank([spans], [[2, 3]], weights)[0][0].changes.any()
    prompts = Ragged.from_lists([spans.ids])
    last = np.array([len(spans) - 1])
    assert not words.at(prompts, last, weights, mean=False).any()


def test_which_predictors_need_an_adapter(lm, clip, image):
    problem = Problem(lm, [Term(ImageSimilarity(images=image), clip)], words=WORDS)
    gradients = Gradients(problem, Spent())
    for predictor in Predictor:
        if predictor in (Predictor.EMBEDDING, Predictor.LAYERS):
            unit_predictor(gradients, problem.word_units, predictor)
            continue
        with pytest.raises(OptionError, match="no adapter from"):
            unit_predictor(gradients, problem.word_units, predictor)
