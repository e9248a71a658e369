"""Bootstrap intervals: against the closed form, an independent loop, and known differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import OptionError, ShapeError
from fuse_index.evaluate import (
    BootstrapOptions,
    Interval,
    Score,
    mean_score,
    paired_bootstrap,
)
from fuse_index.evaluate.interval import ratio

floats = st.lists(st.floats(-100, 100), min_size=1, max_size=20)


def test_the_interval_of_a_mean_is_the_normal_one_where_there_are_many_items():
    items = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    interval = mean_score("x", items).interval(BootstrapOptions(4000))
    half = 1.959964 * items.std() / np.sqrt(len(items))
    assert interval.low == pytest.approx(items.mean() - half, abs=half / 10)
    assert interval.high == pytest.approx(items.mean() + half, abs=half / 10)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(400):
        interval = mean_score("x", rng.exponential(1.0, 60)).interval(
            BootstrapOptions(400, level=0.9, seed=seed)
        )
        covered += interval.low <= 1.0 <= interval.high
    assert 0.84 < covered / 400 < 0.94  # percentile intervals of skewed items cover a little less


def test_resamples_are_computed_as_the_corpus_is():
    """A ratio of sums, recomputed item by item on the same draws."""
    parts = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 5.0], [2.0, 2.0]])
    score = Score("x", 6 / 13, parts[:, 0] / parts[:, 1], parts)
    rng = np.random.default_rng(7)
    values = []
    for _ in range(50):
        drawn = parts[rng.integers(4, size=4)]
        values.append(drawn[:, 0].sum() / drawn[:, 1].sum())
    low, high = np.quantile(values, [0.025, 0.975])
    interval = score.interval(BootstrapOptions(50, seed=7))
    assert interval == Interval(pytest.approx(low), pytest.approx(high))


def test_the_same_seed_gives_the_same_interval_whatever_the_chunks(monkeypatch):
    score = mean_score("x", np.random.default_rng(0).normal(size=33))
    whole = score.interval(BootstrapOptions(100, seed=3))
    assert score.interval(BootstrapOptions(100, seed=3)) == whole
    assert score.interval(BootstrapOptions(100, seed=4)) != whole
    monkeypatch.setattr("fuse_index.evaluate.interval._CHUNK", 33 * 7)
    assert score.interval(BootstrapOptions(100, seed=3)) == whole


@given(floats)
def test_the_interval_lies_within_the_items(items):
    score = mean_score("x", items)
    interval = score.interval(BootstrapOptions(20))
    slack = 1e-9
    assert min(items) - slack <= interval.low <= interval.high <= max(items) + slack
    assert score.value == pytest.approx(np.mean(items))


def test_items_without_a_value_are_left_out():
    nan = float("nan")
    score = mean_score("x", [1.0, nan, 3.0])
    assert score.value == 2.0
    assert np.isnan(score.items[1])
    assert score.interval() == Interval(1.0, 3.0)
    nothing = mean_score("x", [nan, nan])
    assert np.isnan(nothing.value)
    assert np.isnan(nothing.interval().low)
    np.testing.assert_array_equal(ratio(np.array([[1.0, 0.0], [1.0, 4.0]])), [nan, 0.25])


def test_scores_without_parts_have_no_interval():
    score = Score("METEOR", 0.3, np.array([0.2, 0.4]), None)
    assert score.interval() is None
    with pytest.raises(OptionError, match=r"METEOR cannot be resampled; .*mean_score"):
        paired_bootstrap(score, score)


def test_a_paired_difference_is_far_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    base = rng.normal(0.0, 1.0, 300)
    first = mean_score("x", base + 0.1 + rng.normal(0.0, 0.1, 300))
    second = mean_score("x", base)
    found = paired_bootstrap(first, second)
    assert found.value == pytest.approx(first.value - second.value)
    assert 0.08 < found.interval.low < found.value < found.interval.high < 0.12
    assert found.p_value == pytest.approx(2 / 2001)  # not one resample on the other side
    overlapping = first.interval().low < second.interval().high
    assert overlapping


def test_no_difference_has_p_value_one():
    score = mean_score("x", [1.0, 2.0, 4.0])
    found = paired_bootstrap(score, score)
    assert (found.value, found.interval, found.p_value) == (0.0, Interval(0.0, 0.0), 1.0)


def test_the_p_value_is_symmetric():
    rng = np.random.default_rng(2)
    first, second = (mean_score("x", rng.normal(shift, 1, 50)) for shift in (0.2, 0.0))
    one, two = paired_bootstrap(first, second), paired_bootstrap(second, first)
    assert one.p_value == two.p_value
    assert 0.001 < one.p_value < 1
    assert one.interval.low == pytest.approx(-two.interval.high)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "resamples=0; expected at least 1"),
        ({"seed": -1}, "seed=-1; expected at least 0"),
        ({"level": 95}, "level=95; expected less than 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        BootstrapOptions(**options)


def test_bad_scores():
    with pytest.raises(ShapeError, match=r"x: items of shape \(0,\)"):
        mean_score("x", [])
    with pytest.raises(ShapeError, match="x of 1 and of 2 items; expected the same items"):
        paired_bootstrap(mean_score("x", [1.0]), mean_score("x", [1.0, 2.0]))
    with pytest.raises(OptionError, match="scores x and y; expected one metric"):
        paired_bootstrap(mean_score("x", [1.0]), mean_score("y", [1.0]))
