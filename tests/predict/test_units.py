"""Tokens and words as units: their ids, vectors and states, and what replacing them gives."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import OptionError, VocabularyError
from fuse_index.objectives import Fluency
from fuse_index.optimize import Problem, Term, TokenFilter, Unit
from fuse_index.predict import TokenUnits, WordUnits, store
from fuse_index.predict.spans import Spans
from fuse_index.predict.states import hidden_states
from fuse_index.predict.units import mean_vectors, replace_spans
from fuse_index.words.ragged import Ragged
from tests.demo_models import BASE, START
from tests.predict.helpers import WORDS, word_vector


@given(st.data())
def test_replaced_spans_are_those_of_a_list(data):
    prompt = data.draw(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=6))
    places = data.draw(st.lists(st.integers(0, len(prompt) - 1), unique=True, max_size=3))
    new = [data.draw(st.lists(st.integers(10, 19), max_size=3)) for _ in places]
    offsets = np.concatenate([[0], np.cumsum([len(word) for word in prompt])])
    spans = Spans(tuple(i for word in prompt for i in word), offsets)
    for place, word in zip(places, new, strict=True):
        prompt[place] = word
    assert replace_spans(spans, places, new) == [i for word in prompt for i in word]


def test_mean_vectors_are_means_of_rows(monkeypatch):
    from fuse_index.predict import units

    table = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    rows = [[1], [2, 3], [8, 8, 0], [4, 5], [6]]
    expected = torch.stack([table[row].mean(0) for row in rows])
    for chunk in (8192, 2):
        monkeypatch.setattr(units, "_CHUNK_WORDS", chunk)
        torch.testing.assert_close(mean_vectors(Ragged.from_lists(rows), table), expected)


# words


def test_words_are_those_of_the_bundle_without_what_may_not_be_used(clip_only, lm):
    table = clip_only.targets[0].adapter.bundle.table
    units = clip_only.word_units
    assert clip_only.units(Unit.WORD) is units
    assert set(units.words) <= set(table.words)
    assert "circle" in units.words
    filtered = Problem(lm, clip_only.terms, tokens=TokenFilter(deny_pattern="circle"))
    assert "circle" not in filtered.word_units.words
    for word, row in zip(filtered.word_units.words[:50], filtered.word_units.source, strict=False):
        assert lm.words.decode(row.tolist()).strip() == word


def test_no_words_say_what_to_give(lm):
    problem = Problem(lm, [Term(Fluency(), lm)])
    assert not problem.has_words
    with pytest.raises(OptionError, match="word-level moves without words"):
        _ = problem.word_units
    none_left = Problem(
        lm, [Term(Fluency(), lm)], words=["circle"], tokens=TokenFilter(deny_pattern="circle")
    )
    assert none_left.has_words
    with pytest.raises(VocabularyError, match="the filters leave none of 1 words"):
        _ = none_left.word_units
    assert len(WordUnits(problem, ["circle", "circle"], problem.allowed)) == 1


def test_words_have_tokens_vectors_and_states_in_every_model(clip_only, lm, clip, monkeypatch):
    monkeypatch.setattr(store, "_made", WeakKeyDictionary())
    units = WordUnits(clip_only, WORDS, clip_only.allowed)
    assert units.words == WORDS
    for model in (lm, clip):
        assert units.tokens(model).to_lists() == model.words.encode_words(WORDS).to_lists()
        expected = torch.stack([word_vector(model, word) for word in WORDS])
        torch.testing.assert_close(units.vectors(model), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(units.mean(model), expected.mean(0), rtol=1e-4, atol=1e-6)
        states = hidden_states(model, units.tokens(model))
        assert not units.states_are_kept(model)
        torch.testing.assert_close(units.states(model), states)
        assert units.states_are_kept(model)
        assert units.states(model) is units.states(model)
    assert units.firsts.tolist() == [row[0] for row in units.source.to_lists()]


def test_vectors_of_a_prompts_words(clip_only, lm, clip):
    units, target = clip_only.word_units, clip_only.targets[0]
    spans = units.spans(clip_only.encode(BASE))
    assert len(spans) == len(BASE.split())
    expected = torch.stack([word_vector(clip, word) for word in BASE.split()])
    torch.testing.assert_close(units.words_of(spans, target), expected, rtol=1e-4, atol=1e-6)
    joined = Spans(spans.ids, spans.offsets[[0, *range(2, len(spans) + 1)]])
    found = units.words_of(joined, target)  # as where words join in the model's tokens
    assert found.shape == (len(spans) - 1, clip.width)
    assert not found.any()


def test_words_replace_words(clip_only):
    units = WordUnits(clip_only, WORDS, clip_only.allowed)
    spans = units.spans(clip_only.encode(BASE))
    rows = units.replaced(spans, np.array([[0, 4], [8, 1]]), np.array([[2, 0], [5, 3]]))
    texts = [clip_only.decode(row).strip() for row in rows.to_lists()]
    assert texts == [
        "gorgeous picture contains a circle circle on the left",
        "the left contains a gorgeous circle on the above",
    ]


# tokens


def test_tokens_are_those_that_may_be_used(lm, lm_problem):
    units = lm_problem.units(Unit.TOKEN)
    assert isinstance(units, TokenUnits)
    allowed = np.flatnonzero(lm_problem.allowed)
    assert units.source.to_lists() == [[token] for token in allowed.tolist()]
    assert units.firsts.tolist() == allowed.tolist()
    torch.testing.assert_close(units.vectors(lm), lm.table()[allowed].float())
    assert units.tokens(lm).to_lists() == units.source.to_lists()


def test_tokens_replace_tokens_and_know_which_stand(lm, lm_problem):
    ids = lm_problem.encode(START)
    units = TokenUnits(lm, np.arange(lm.vocabulary_size) != ids[2])
    spans = units.spans(ids)
    assert len(spans) == len(ids)
    rows = units.replaced(spans, np.array([[1, 3], [0, 8]]), np.array([[5, 6], [7, 8]]))
    expected = [list(ids), list(ids)]
    expected[0][1], expected[0][3] = (int(units.firsts[i]) for i in (5, 6))
    expected[1][0], expected[1][8] = (int(units.firsts[i]) for i in (7, 8))
    assert rows.to_lists() == expected
    standing = units.standing(spans, [0, 2, 5])
    assert standing.tolist()[1] == -1
    assert [int(units.firsts[i]) for i in standing.tolist()[::2]] == [ids[0], ids[5]]


def test_a_filler_is_a_word_of_its_own(lm, lm_problem):
    units = lm_problem.units(Unit.TOKEN)
    assert lm.words.decode(units.filler.tolist()) == " the"
    without = TokenUnits(lm, np.arange(lm.vocabulary_size) == 7)
    assert without.filler.tolist() == [7]
