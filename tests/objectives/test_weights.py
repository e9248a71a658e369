from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import LossError, ShapeError
from fuse_index.objectives import balanced_weights

NORMS = st.floats(1e-3, 1e3)
WEIGHTS = st.floats(0.1, 10) | st.floats(-10, -0.1)
PAIRS = st.lists(st.tuples(NORMS, WEIGHTS), min_size=1, max_size=5)


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


def test_bad_input() -> None:
    with pytest.raises(ShapeError, match="1 gradient norms for 2 weights"):
        balanced_weights([1.0], [1.0, 1.0])
    with pytest.raises(LossError, match="finite"):
        balanced_weights([float("nan")], [1.0])
