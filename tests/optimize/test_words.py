"""Whole words as moves: the lexicon, predictions in word space and through the adapter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import OptionError, VocabularyError
from fuse_index.evaluate.predictors import Vocabulary, by_adapter, by_word
from fuse_index.objectives import Fluency, ImageSimilarity
from fuse_index.optimize import (
    Budget,
    Greedy,
    Problem,
    RunOptions,
    Spent,
    Term,
    TokenFilter,
    WordSwaps,
    optimize,
)
from fuse_index.optimize.gradient import Differentiator, embedding_gradient
from fuse_index.optimize.lexicon import Lexicon, replace_words
from fuse_index.optimize.word_gradient import Expansion, WordDifferentiator

BASE = "the picture contains a gorgeous circle on the left"


@pytest.fixture(scope="module")
def clip_only(clip, clip_adapter, lm, image_path) -> Problem:
    """One target with other tokens than the source."""
    return Problem(lm, [Term(ImageSimilarity(images=image_path), clip, clip_adapter)])


@pytest.fixture(scope="module")
def words(clip_only) -> WordDifferentiator:
    gradients = Differentiator(clip_only, Spent())
    return WordDifferentiator(gradients, clip_only.lexicon)


@given(st.data())
def test_replaced_words_are_those_of_a_list(data):
    prompt = data.draw(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=6))
    slots = data.draw(st.lists(st.integers(0, len(prompt) - 1), unique=True, max_size=3))
    new = [data.draw(st.lists(st.integers(10, 19), max_size=3)) for _ in slots]
    offsets = np.concatenate([[0], np.cumsum([len(word) for word in prompt])])
    ids = [i for word in prompt for i in word]
    for slot, word in zip(slots, new, strict=True):
        prompt[slot] = word
    assert replace_words(ids, offsets, slots, new) == [i for word in prompt for i in word]


def test_lexicon_is_that_of_the_bundle_without_what_may_not_be_used(clip_only, lm):
    table = clip_only.readers[0].adapter.bundle.table
    assert set(clip_only.lexicon.words) <= set(table.words)
    assert "circle" in clip_only.lexicon.words
    filtered = Problem(lm, clip_only.terms, tokens=TokenFilter(deny_pattern="circle"))
    assert "circle" not in filtered.lexicon.words
    for word, row in zip(filtered.lexicon.words[:50], filtered.lexicon.source, strict=False):
        assert lm.words.decode(row.tolist()).strip() == word


def test_lexicon_without_words_says_what_to_give(lm):
    problem = Problem(lm, [Term(Fluency(), lm)])
    with pytest.raises(OptionError, match="word-level moves without words"):
        _ = problem.lexicon
    none_left = Problem(
        lm, [Term(Fluency(), lm)], words=["circle"], tokens=TokenFilter(deny_pattern="circle")
    )
    with pytest.raises(VocabularyError, match="the filters leave none of 1 words"):
        _ = none_left.lexicon
    assert len(Lexicon(Problem(lm, [Term(Fluency(), lm)]), ["circle", "circle"])) == 1


def place_gradient(problem: Problem, text: str, slot: int) -> torch.Tensor:
    """The gradient at a word's target tokens, by hand."""
    parts = text.split()
    model = problem.terms[0].model
    rows = model.words.encode_words(parts)
    _, packed = embedding_gradient(problem.losses[0], [rows.values.tolist()])
    return packed[rows.offsets[slot] : rows.offsets[slot + 1]]


@pytest.mark.parametrize("slot", [0, 4, 8])
def test_predictions_are_those_that_validate_measures(clip_only, words, slot, clip, lm):
    gradient = place_gradient(clip_only, BASE, slot)
    table = clip_only.readers[0].adapter.bundle.table
    vocabulary = Vocabulary(table, clip_only.readers[0].adapter, lm.table(), clip.table())
    lexicon = clip_only.lexicon
    rows = np.array([table.words.index(word) for word in lexicon.words])
    taken = words.at(words.places(clip_only.encode(BASE)), np.ones(1), slots=[slot])
    in_words = words.in_word_space(taken)[0]
    expected = by_word(vocabulary, gradient, 0, rows)
    offset = in_words[0] - expected[0]
    torch.testing.assert_close(in_words, expected + offset, rtol=1e-3, atol=1e-5)
    adapted = words.through_adapter(taken)[0]
    torch.testing.assert_close(
        adapted, by_adapter(vocabulary, gradient, 0, rows), rtol=1e-3, atol=1e-5
    )


def test_the_current_word_is_predicted_to_change_nothing(clip_only, words):
    places = words.places(clip_only.encode(BASE))
    change = words.in_word_space(words.at(places, np.ones(1)))
    for slot, word in enumerate(BASE.split()):
        assert abs(float(change[slot, clip_only.lexicon.words.index(word)])) < 1e-5


def test_places_can_be_chosen(clip_only, words):
    places = words.places(clip_only.encode(BASE))
    every = words.at(places, np.ones(1))[0]
    some = words.at(places, np.ones(1), slots=[7, 2])[0]
    torch.testing.assert_close(some.sums, every.sums[[7, 2]])
    torch.testing.assert_close(some.current, every.current[[7, 2]])


def test_mean_word_stands_in_the_place(clip_only, words, clip):
    slot = 5
    mean = clip_only.lexicon.of(clip).mean
    rows = clip.words.encode_words(BASE.split())
    before, after = rows.values[: rows.offsets[slot]], rows.values[rows.offsets[slot + 1] :]
    loss = clip_only.losses[0]
    batch = loss.batch([[*before.tolist(), int(rows[slot][0]), *after.tolist()]])
    embeds = clip.embed(batch.ids)
    position = batch.start + len(before)
    embeds[0, position] = mean
    embeds.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(embeds, batch).sum(), embeds)
    places = words.places(clip_only.encode(BASE))
    found = words.at(places, np.ones(1), slots=[slot], expansion=Expansion.MEAN_WORD)[0]
    torch.testing.assert_close(found.sums[0], gradient[0, position], rtol=1e-4, atol=1e-7)


def test_terms_of_the_source_and_of_targets_are_one_query(problem):
    gradients = Differentiator(problem, Spent())
    lexicon = Lexicon(problem, ["circle", "triangle", "gorgeous", "left"])
    words = WordDifferentiator(gradients, lexicon)
    places = words.places(problem.encode(BASE))
    alone = [words.in_word_space(words.at(places, np.eye(2)[i])) for i in range(2)]
    both = words.in_word_space(words.at(places, np.array([0.2, 3.0])))
    torch.testing.assert_close(both, 0.2 * alone[0] + 3.0 * alone[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("guide", ["word", "adapter", "mixture", "random"])
@pytest.mark.parametrize("draw", ["uniform", "best"])
def test_candidates_swap_whole_words_of_the_lexicon(clip_only, guide, draw):
    method = WordSwaps(search_width=12, top_k=8, guide=guide, draw=draw, places=3)
    result = optimize(clip_only, BASE, method=method, budget=Budget(steps=4))
    assert result.total < result.trajectory[0].total
    for word in result.text.split():
        assert word in {*BASE.split(), *clip_only.lexicon.words}
    assert len(result.text.split()) == len(BASE.split())


@pytest.mark.parametrize("expansion", ["current", "mean_word", "anchors"])
def test_expansions_cost_what_they_take(clip_only, expansion):
    method = WordSwaps(search_width=4, top_k=8, expansion=expansion, anchors=3, places=2)
    result = optimize(clip_only, BASE, method=method, budget=Budget(steps=1))
    expected = {"current": 1, "mean_word": 2, "anchors": 6}[expansion]
    assert result.spent["gradients"] == expected


def test_two_runs_with_one_seed_are_the_same(clip_only):
    method = WordSwaps(search_width=8, expansion="anchors", anchors=2, places=1, guide="mixture")
    runs = [
        optimize(
            clip_only,
            BASE,
            method=method,
            search=Greedy(buffer=2),
            budget=Budget(steps=3),
            options=RunOptions(seed=3),
        )
        for _ in range(2)
    ]
    assert [p.ids for p in runs[0].trajectory] == [p.ids for p in runs[1].trajectory]


def test_word_space_needs_no_adapter(lm, clip, image, clip_only):
    words = clip_only.lexicon.words
    problem = Problem(lm, [Term(ImageSimilarity(images=image), clip)], words=words)
    method = WordSwaps(search_width=12, top_k=8)
    result = optimize(problem, BASE, method=method, budget=Budget(steps=2))
    assert result.total < result.trajectory[0].total
    for guide in ("adapter", "mixture"):
        with pytest.raises(OptionError, match="no adapter from"):
            optimize(problem, BASE, method=WordSwaps(guide=guide), budget=Budget(steps=1))


def test_options_outside_their_range():
    with pytest.raises(OptionError, match="words: guide 'luck'; expected one of word, layers"):
        WordSwaps(guide="luck")
    with pytest.raises(OptionError, match="words: places=0; expected at least 1"):
        WordSwaps(places=0)
    with pytest.raises(OptionError, match="words: draw 'best' with n_replace=2"):
        WordSwaps(draw="best", n_replace=2)
