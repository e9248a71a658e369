import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.adapter import WordLayout
from fuse_index.errors import ShapeError


@st.composite
def prompts(draw):
    """Words per prompt and token counts of every word."""
    words = draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    counts = st.lists(st.integers(1, 4), min_size=sum(words), max_size=sum(words))
    return words, draw(counts), draw(counts)


@given(prompts(), st.integers(0, 3), st.integers(0, 3))
def test_packing_takes_exactly_the_words_rows(case, start, extra):
    words, p, q = case
    layout = WordLayout.from_counts(p, q, [0] * len(p), words)
    bounds = np.concatenate([[0], np.cumsum(words)])
    lengths = [sum(p[a:b]) for a, b in itertools.pairwise(bounds)]
    length = start + max(lengths) + extra
    padded = torch.randn(len(words), length, 3)
    expected = torch.cat([padded[i, start : start + n] for i, n in enumerate(lengths)])
    packed = layout.pack_source(padded, start)
    assert torch.equal(packed, expected)
    back = layout.pad_source(packed, length, start)
    for i, n in enumerate(lengths):
        assert torch.equal(back[i, start : start + n], padded[i, start : start + n])
        assert not back[i, :start].any()
        assert not back[i, start + n :].any()


def test_counts_of_different_lengths_are_refused():
    with pytest.raises(ShapeError, match="2 source counts, 1 target counts, 2 groups and 2 words"):
        WordLayout.from_counts([1, 2], [1], [0, 0])


def test_words_per_prompt_must_add_up():
    with pytest.raises(ShapeError, match="1 words in prompts"):
        WordLayout.from_counts([1, 2], [1, 1], [0, 0], [1])


def test_negative_counts_are_refused():
    with pytest.raises(ShapeError, match="target_counts of shape"):
        WordLayout.from_counts([1], [-1], [0])


def test_padded_rows_that_are_too_short_are_refused():
    layout = WordLayout.from_counts([2, 2], [1, 1], [0, 0])
    with pytest.raises(ShapeError, match="a length of at least 5"):
        layout.pack_source(torch.zeros(1, 4, 2), start=1)


def test_packed_rows_of_another_number_are_refused():
    layout = WordLayout.from_counts([2], [1], [0])
    with pytest.raises(ShapeError, match=r"expected \(2, width\)"):
        layout.pad_source(torch.zeros(3, 2), 4)
