"""Targets read prompts as text; the source's own words are cut, and survive or not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.adapter import Adapter
from fuse_index.errors import IdentityError, OptionError, ShapeError
from fuse_index.models import load_model
from fuse_index.predict import Target
from fuse_index.words.ragged import Ragged
from tests.adapter.helpers import random_adapter
from tests.demo_models import BASE


def rows_of(problem, *texts) -> Ragged:
    return Ragged.from_lists([problem.encode(text) for text in texts])


def test_a_target_reads_the_text_in_its_own_tokens(problem, lm, clip):
    target = Target(lm, clip)
    assert not target.same_tokens
    texts = (BASE, "a lovely triangle")
    read = target.read(rows_of(problem, *texts))
    assert read.contents.to_lists() == clip.words.encode_texts(texts).to_lists()
    words = [len(text.split()) for text in texts]
    assert np.diff(read.words.word_row_offsets).tolist() == words


def test_a_model_with_the_same_tokens_reads_the_prompts_themselves(problem, lm):
    twin = load_model(lm.name, device="cpu")
    rows = rows_of(problem, BASE)
    for model in (lm, twin):
        target = Target(lm, model)
        assert target.same_tokens
        assert target.is_source is (model is lm)
        read = target.read(rows)
        assert read.contents is rows
        assert read.words is None
        target.require_adapter()


def test_an_adapter_is_dropped_where_none_is_needed(lm, clip_adapter):
    assert Target(lm, lm, clip_adapter).adapter is None


def test_adapters_of_other_models_are_refused(lm, clip, sentiment, sentiment_adapter):
    with pytest.raises(IdentityError, match="target"):
        Target(lm, clip, sentiment_adapter)
    narrow = random_adapter(3, 5)
    with pytest.raises(ShapeError, match=r"an adapter of widths 3 to 5; .*fuse-index build"):
        Target(lm, clip, narrow)
    assert isinstance(Target(lm, sentiment, sentiment_adapter).adapter, Adapter)


def test_the_layout_is_that_of_the_words_groups(problem, lm, clip):
    target = problem.targets[1]
    read = target.read(rows_of(problem, BASE, "a lovely triangle"))
    layout = target.layout(read)
    counts = read.words.source_counts, read.words.target_counts
    expected = target.adapter.layout(*counts, np.diff(read.words.word_row_offsets))
    assert vars(layout).keys() == vars(expected).keys()
    alone = Target(lm, clip)
    with pytest.raises(OptionError, match=r"no adapter from .*; build it: fuse-index build "):
        alone.layout(alone.read(rows_of(problem, BASE)))


@settings(max_examples=60)
@given(data=st.data())
def test_survivors_decode_and_encode_to_themselves(lm_problem, data):
    size = lm_problem.source.vocabulary_size
    row = st.lists(st.integers(3, size - 1), min_size=1, max_size=6)
    rows = data.draw(st.lists(row, min_size=1, max_size=8))
    found = lm_problem.words.survives(Ragged.from_lists(rows))
    words = lm_problem.source.words
    expected = [words.encode_text(words.decode(ids)) == ids for ids in rows]
    assert found.tolist() == expected


def test_words_are_cut_at_white_space(lm_problem):
    rows = rows_of(lm_problem, BASE.replace("gorgeous", "small"), "a lovely triangle")
    offsets, first = lm_problem.words.offsets(rows)
    assert np.diff(first).tolist() == [9, 3]
    texts = [lm_problem.decode(rows.values[a:b].tolist()).strip() for a, b in pairwise(offsets)]
    assert texts == [*BASE.replace("gorgeous", "small").split(), "a", "lovely", "triangle"]
