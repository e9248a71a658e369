"""Spans of units in prompts, and gradients at them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.objectives import TextSimilarity
from fuse_index.predict.layers import layer_gradient
from fuse_index.predict.loss_gradients import embedding_gradient
from fuse_index.predict.spans import Spans, span_gradients, span_sums
from fuse_index.words.ragged import Ragged

TEXTS = ("the picture contains a gorgeous circle", "a lovely red star")
SPANS = np.array([[2, 4], [1, 2]])


@pytest.fixture(scope="module")
def loss(clip):
    return TextSimilarity(texts="a blue square").prepare(clip)


@pytest.fixture(scope="module")
def rows(clip) -> Ragged:
    return clip.words.encode_texts(TEXTS)


def test_a_prompt_has_as_many_units_as_spans():
    assert len(Spans((1, 2, 3), np.array([0, 1, 3]))) == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6))
def test_sums_are_those_of_slices(pairs):
    packed = torch.arange(30.0).reshape(10, 3)
    spans = np.array([sorted(pair) for pair in pairs], dtype=np.int64).reshape(-1, 2)
    expected = [packed[begin:end].sum(0).tolist() for begin, end in spans.tolist()]
    assert span_sums(packed, spans).tolist() == expected


def test_gradients_are_summed_over_the_tokens_of_each_span(loss, rows):
    losses, sums = span_gradients(loss, rows, SPANS)
    expected_losses, packed = embedding_gradient(loss, rows)
    torch.testing.assert_close(losses, expected_losses)
    first = int(rows.offsets[1])
    torch.testing.assert_close(sums[0], packed[2:4].sum(0))
    torch.testing.assert_close(sums[1], packed[first + 1])


def test_layers_are_the_gradients_at_hidden_states(loss, rows):
    found = span_gradients(loss, rows, SPANS, layers=True)
    for ours, theirs in zip(found, layer_gradient(loss, rows, SPANS), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layers", [False, True])
def test_a_mean_replaces_the_span_as_one_token(loss, rows, clip, layers):
    mean = clip.table()[7:11].mean(0)
    losses, sums = span_gradients(loss, rows, SPANS, mean=mean, layers=layers)
    for i, (row, (begin, end)) in enumerate(zip(rows.to_lists(), SPANS.tolist(), strict=True)):
        batch = loss.batch([[*row[:begin], row[begin], *row[end:]]])
        embeds = clip.embed(batch.ids)
        position = batch.start + begin
        embeds[0, position] = mean
        embeds.requires_grad_()
        value = loss(embeds, batch).sum()
        assert float(losses[i]) == pytest.approx(float(value.detach()), abs=1e-5)
        if not layers:
            (gradient,) = torch.autograd.grad(value, embeds)
            torch.testing.assert_close(sums[i], gradient[0, position], rtol=1e-3, atol=1e-6)
