"""Predictions put together from gradients with other words in the position."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from fuse_index.predict.anchors import INVERSE_TEMPERATURE, centred_cosine, weighted_anchors


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 6))
def test_cosines_are_centred_on_the_anchors_mean(seed, anchors, count):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, 5, generator=generator)
    own = torch.randn(anchors, 5, generator=generator)
    centre = own.mean(0)
    expected = cosine_similarity((own - centre)[:, None], (vectors - centre)[None], dim=2)
    torch.testing.assert_close(centred_cosine(vectors, own), expected, rtol=1e-3, atol=1e-4)


def test_weighted_predictions_are_exact_for_a_linear_loss():
    generator = torch.Generator().manual_seed(1)
    vectors, gradient = torch.randn(9, 4, generator=generator), torch.randn(4, generator=generator)
    anchors = vectors[[2, 5, 7]]
    losses = anchors @ gradient + 3.0
    found = weighted_anchors(losses, gradient.expand(3, -1), anchors, vectors)
    torch.testing.assert_close(found, vectors @ gradient + 3.0)


def test_an_anchor_predicts_what_is_similar_to_it():
    """Two anchors on a line: a candidate at one of them has cosines 1 and -1 with them."""
    anchors = torch.tensor([[1.0], [-1.0]])
    losses, gradients = torch.tensor([10.0, 20.0]), torch.tensor([[2.0], [3.0]])
    share = 1 / (1 + np.exp(-2 * INVERSE_TEMPERATURE))
    at_first = share * 10 + (1 - share) * (20 + 3 * 2)
    at_second = share * 20 + (1 - share) * (10 - 2 * 2)
    found = weighted_anchors(losses, gradients, anchors, anchors)
    torch.testing.assert_close(found, torch.tensor([at_first, at_second]).float())


@given(st.integers(0, 1000), st.integers(1, 4))
def test_predictions_against_sums_written_out(seed, count):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randn(count, generator=generator)
    gradients, anchors = torch.randn(2, count, 5, generator=generator)
    vectors = torch.randn(7, 5, generator=generator)
    found = weighted_anchors(losses, gradients, anchors, vectors)
    for vector, value in zip(vectors, found, strict=True):
        centred = anchors - anchors.mean(0)
        similar = cosine_similarity((vector - anchors.mean(0))[None], centred, dim=1)
        linear = losses + ((vector - anchors) * gradients).sum(1)
        expected = (torch.softmax(INVERSE_TEMPERATURE * similar, 0) * linear).sum()
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
