from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import LossError, OptionError, ShapeError
from fuse_index.objectives import balanced_weights, weighted_sum

NORMS = st.floats(1e-3, 1e3)
WEIGHTS = st.floats(0.1, 10) | st.floats(-10, -0.1)
PAIRS = st.lists(st.tuples(NORMS, WEIGHTS), min_size=1, max_size=5)


def test_weighted_sum_of_every_candidate() -> None:
    losses = [torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0], dtype=torch.float16)]
    assert weighted_sum(losses, [2.0, -0.5]).tolist() == [-3.0, -6.0]


def test_weighted_sum_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"losses of shapes \(2,\), \(3,\) and 2 weights"):
        weighted_sum([torch.zeros(2), torch.zeros(3)], [1, 1])
    with pytest.raises(ShapeError, match="1 weights"):
        weighted_sum([torch.zeros(2), torch.zeros(2)], [1])
    with pytest.raises(ShapeError):
        weighted_sum([], [])


@given(PAIRS)
def test_gradients_count_as_their_weights_say(pairs: list[tuple[float, float]]) -> None:
    norms, weights = [n for n, _ in pairs], [w for _, w in pairs]
    scaled = balanced_weights(norms, weights)
    factors = [s * n / w for s, n, w in zip(scaled, norms, weights, strict=True)]
    assert factors == pytest.approx([factors[0]] * len(factors))
    assert factors[0] > 0
    assert sum(map(abs, scaled)) == pytest.approx(sum(map(abs, weights)))


def test_objectives_without_a_gradient_keep_their_weight() -> None:
    assert balanced_weights([4.0, 0.0, 1.0], [1.0, 7.0, 1.0]) == pytest.approx((0.4, 7.0, 1.6))
    assert balanced_weights([4.0, 1.0], [1.0, 0.0]) == (1.0, 0.0)
    assert balanced_weights([0.0], [3.0]) == (3.0,)


def test_smoothing_is_a_mean_of_logarithms() -> None:
    fresh = balanced_weights([4.0, 1.0], [1.0, 1.0])
    smooth = balanced_weights([4.0, 1.0], [1.0, 1.0], previous=(1.0, 1.0), momentum=0.75)
    assert smooth == pytest.approx([math.exp(0.25 * math.log(weight)) for weight in fresh])


def test_bad_input() -> None:
    with pytest.raises(OptionError, match="momentum 1"):
        balanced_weights([1.0], [1.0], momentum=1)
    with pytest.raises(ShapeError, match="1 gradient norms for 2 weights"):
        balanced_weights([1.0], [1.0, 1.0])
    with pytest.raises(LossError, match="finite"):
        balanced_weights([float("nan")], [1.0])
