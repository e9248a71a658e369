"""Budgets: which limit ends a run."""

from __future__ import annotations

import pytest

from fuse_index.errors import OptionError
from fuse_index.optimize import Budget, Spent, Stop
from fuse_index.optimize.budget import DEFAULT_STEPS


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({}, DEFAULT_STEPS),
        ({"target_loss": 0.5}, DEFAULT_STEPS),
        ({"steps": 7}, 7),
        ({"steps": 7, "seconds": 1.0}, 7),
        ({"seconds": 1.0}, None),
        ({"forward_passes": 9}, None),
        ({"steps": None, "forward_passes": 9, "target_loss": 0.0}, None),
    ],
)
def test_steps_are_counted_only_where_nothing_else_ends_a_run(given, limit):
    assert Budget(**given).step_limit == limit


def test_the_limit_that_is_reached_is_named():
    spent = Spent(steps=100, scored=10, gradients=3, predicted=4)
    assert Budget().reached(spent, 1.0) is Stop.STEPS
    assert Budget(steps=101).reached(spent, 1.0) is None
    assert Budget(forward_passes=20).reached(spent, 1.0) is Stop.FORWARD_PASSES
    assert Budget(forward_passes=21).reached(spent, 1.0) is None
    assert Budget(seconds=1e-9).reached(spent, 1.0) is Stop.SECONDS
    assert Budget(seconds=1e9).reached(spent, 1.0) is None
    assert Budget(target_loss=1.0).reached(spent, 1.0) is Stop.TARGET_LOSS
    assert Budget(steps=101, target_loss=0.9).reached(spent, 1.0) is None


def test_what_is_left_is_told():
    spent = Spent(scored=10, gradients=3, predicted=4)
    assert Budget(forward_passes=50).affordable(spent) == 30
    assert Budget(forward_passes=5).affordable(spent) == 0
    assert Budget().affordable(spent) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "budget: steps=0; expected at least 1"),
        ({"steps": 1.5}, "budget: steps=1.5; expected a whole number"),
        ({"seconds": 0}, "budget: seconds=0; expected more than 0"),
        ({"forward_passes": -1}, "budget: forward_passes=-1; expected at least 1"),
        ({"target_loss": "low"}, "budget: target_loss 'low'; expected a number"),
    ],
)
def test_limits_are_checked(given, message):
    with pytest.raises(OptionError, match=message):
        Budget(**given)
