import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import ShapeError
from fuse_index.evaluate.ranking import Estimate, ranks, share_found, spearman

values = st.lists(st.integers(-5, 5), min_size=2, max_size=30)


@given(values)
def test_ranks_are_the_mean_place_among_all_orders_of_ties(data):
    expected = [sum(b < a for b in data) + (sum(b == a for b in data) + 1) / 2 for a in data]
    np.testing.assert_allclose(ranks(np.array(data, float)), expected)


@given(st.integers(2, 12), st.randoms())
def test_spearman_without_ties_is_the_formula_of_squared_rank_differences(n, random):
    order = random.sample(range(n), n)
    d = sum((a - b) ** 2 for a, b in zip(order, range(n), strict=True))
    expected = 1 - 6 * d / (n * (n * n - 1))
    assert spearman(np.array(order, float), np.arange(n, dtype=float)) == pytest.approx(expected)


@given(values)
def test_spearman_is_blind_to_monotone_maps_and_flips_with_the_sign(data):
    first = np.array(data, float)
    second = np.roll(first, 1)
    expected = spearman(first, second)
    if math.isnan(expected):
        assert len(set(data)) == 1
        return
    assert spearman(np.exp(first), second) == pytest.approx(expected)
    assert spearman(-first, second) == pytest.approx(-expected)


@pytest.mark.smoke
def test_share_found_counts_the_true_best_among_the_predicted_best():
    truth = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    predicted = np.array([5.0, 0.0, 1.0, 2.0, 3.0])
    assert share_found(predicted, truth, best=2, among=2) == 0.5
    assert share_found(predicted, truth, best=2, among=5) == 1.0
    assert share_found(truth, truth, best=2, among=2) == 1.0


def test_the_expected_share_of_random_scores_is_the_share_looked_at():
    truth = np.arange(4.0)
    shares = [
        share_found(np.array(order, float), truth, best=2, among=2)
        for order in itertools.permutations(range(4))
    ]
    assert np.mean(shares) == pytest.approx(0.5)


def test_estimates_leave_out_samples_without_a_value():
    estimate = Estimate.of([1.0, 3.0, float("nan")])
    assert estimate == Estimate(2.0, 1.0)
    assert math.isnan(Estimate.of([float("nan")]).mean)
    assert Estimate.of([2.0]) == Estimate(2.0, 0.0)


def test_rankings_of_two_lengths_are_refused():
    with pytest.raises(ShapeError, match="two vectors of one length"):
        spearman(np.zeros(2), np.zeros(3))
