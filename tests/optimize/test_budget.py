"""Budgets: which limit ends a run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fuse_index.errors import ModelError, OptionError
from fuse_index.objectives import Fluency, RepetitionPenalty
from fuse_index.optimize import (
    GCG,
    AutoDAN,
    Budget,
    Greedy,
    Probe,
    Problem,
    RandomSearch,
    Result,
    RunOptions,
    Spent,
    Stop,
    Term,
    optimize,
)
from fuse_index.optimize.budget import DEFAULT_STEPS
from fuse_index.optimize.checkpoint import Checkpoint
from fuse_index.optimize.run import Run
from fuse_index.words.ragged import Ragged
from tests.demo_models import START


def run_of(problem, method):
    given = [problem.encode(START)]
    return Run(problem, given, method=method, search=Greedy(), options=RunOptions())


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({}, DEFAULT_STEPS),
        ({"target_loss": 0.5}, DEFAULT_STEPS),
        ({"steps": 7}, 7),
        ({"steps": 7, "seconds": 1.0}, 7),
        ({"seconds": 1.0}, None),
        ({"forward_passes": 9}, None),
        ({"flops": 1e9}, None),
        ({"steps": None, "forward_passes": 9, "target_loss": 0.0}, None),
    ],
)
def test_steps_are_counted_only_where_nothing_else_ends_a_run(given, limit):
    assert Budget(**given).step_limit == limit


def test_the_limit_that_is_reached_is_named():
    spent = Spent(steps=100, scored=7, gradients=3, predicted=4, model_flops={"a": 60, "b": 40})
    assert Budget().reached(spent, 1.0) is Stop.STEPS
    assert Budget(steps=101).reached(spent, 1.0) is None
    assert Budget(forward_passes=20).reached(spent, 1.0) is Stop.FORWARD_PASSES
    assert Budget(forward_passes=21).reached(spent, 1.0) is None
    assert Budget(flops=100.0).reached(spent, 1.0) is Stop.FLOPS
    assert Budget(flops=101.0).reached(spent, 1.0) is None
    assert Budget(seconds=1e-9).reached(spent, 1.0) is Stop.SECONDS
    assert Budget(seconds=1e9).reached(spent, 1.0) is None
    assert Budget(target_loss=1.0).reached(spent, 1.0) is Stop.TARGET_LOSS
    assert Budget(steps=101, target_loss=0.9).reached(spent, 1.0) is None


def test_what_is_left_is_told():
    spent = Spent(scored=7, gradients=3, predicted=4, model_flops={"a": 60, "b": 40})
    assert Budget(forward_passes=50).affordable(spent) == 30
    assert Budget(forward_passes=5).affordable(spent) == 0
    assert Budget(flops=200.0).affordable(spent) == 20  # of 5 each
    assert Budget(flops=101.0).affordable(spent) == 1
    assert Budget(flops=99.0).affordable(spent) == 0
    assert Budget(flops=200.0, forward_passes=25).affordable(spent) == 5
    assert Budget(flops=math.inf).affordable(spent) > 1e12
    assert Budget().affordable(spent) is None


def test_operations_of_a_model_that_cannot_be_counted_are_not_told():
    spent = Spent(model_flops={"a": 60})
    spent.add_flops({"a": 5, "b": 1})
    assert spent.model_flops == {"a": 65, "b": 1}
    assert spent.flops == 66
    spent.add_flops({"b": None})
    assert spent.flops is None
    assert Spent.from_json(spent.to_json()).model_flops == spent.model_flops
    before = {name: value for name, value in spent.to_json().items() if "flops" not in name}
    assert Spent.from_json(before).flops == 0  # as checkpoints of earlier versions have it


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "budget: steps=0; expected at least 1"),
        ({"steps": 1.5}, "budget: steps=1.5; expected a whole number"),
        ({"seconds": 0}, "budget: seconds=0; expected more than 0"),
        ({"forward_passes": -1}, "budget: forward_passes=-1; expected at least 1"),
        ({"flops": 0}, "budget: flops=0; expected more than 0"),
        ({"target_loss": "low"}, "budget: target_loss 'low'; expected a number"),
    ],
)
def test_limits_are_checked(given, message):
    with pytest.raises(OptionError, match=message):
        Budget(**given)


class TestOperations:
    """Kaplan's rule, counted by hand for every method."""

    def test_every_pass_counts_by_its_tokens(self, problem):
        run = run_of(problem, GCG(search_width=8))
        first = dict(run.spent.model_flops)
        lengths = {
            loss.model.name: loss.batch(problem.targets[i].read(_rows(problem)).contents).totals
            for i, loss in enumerate(problem.losses)
        }
        for loss in problem.losses:
            tokens = loss.model.frame.width or int(lengths[loss.model.name])
            assert first[loss.model.name] == 2 * loss.model.active_parameters * tokens
        assert run.spent.flops == sum(first.values())
        weights = np.ones(2)
        run.gradients.tokens(_rows(problem), weights)
        assert run.spent.model_flops == {name: 4 * own for name, own in first.items()}
        run.gradients.count(1, weights)
        assert run.spent.model_flops == {name: 4 * own for name, own in first.items()}

    def test_a_budget_of_them_is_kept_to(self, problem):
        first = run_of(problem, GCG(search_width=8)).spent.flops
        result = optimize(
            problem, START, method=GCG(search_width=8), budget=Budget(flops=30.0 * first)
        )
        assert result.stop is Stop.FLOPS
        assert 30 * first <= result.spent["flops"] <= 33 * first
        assert result.spent["flops"] == sum(result.spent["model_flops"].values())
        counts = [point.flops for point in result.trajectory]
        assert counts[0] == first
        assert counts == sorted(counts)
        again = Result.from_json(json.loads(json.dumps(result.to_json())))
        assert again.trajectory == result.trajectory
        old = result.to_json()
        for point in old["trajectory"]:
            del point["flops"]  # as earlier versions wrote them
        assert Result.from_json(old).trajectory[0].flops is None

    def test_they_go_on_where_a_run_stopped(self, problem, tmp_path):
        method, path = GCG(search_width=8), tmp_path / "run.ckpt"
        first = run_of(problem, method).spent.flops
        for budget in (15.0, 40.0):
            optimize(
                problem, START, method=method, budget=Budget(flops=budget * first), checkpoint=path
            )
        whole = [optimize(problem, START, method=method, budget=Budget(steps=2))]
        resumed = Checkpoint.load(path).values["spent"]
        assert resumed["flops"] >= 40 * first
        assert whole[0].trajectory[1].flops > first

    @pytest.mark.parametrize("unit", ["token", "word"])
    def test_what_a_method_reads_counts_as_its_passes(self, lm_problem, problem, unit):
        own = problem if unit == "word" else lm_problem
        for method in (
            AutoDAN(unit=unit, length=12, search_width=4),
            GCG(unit=unit, predictor="layers"),
        ):
            result = optimize(own, START, method=method, budget=Budget(steps=2))
            spent = result.spent
            passes = spent["forward_passes"]
            each = result.trajectory[0].flops
            assert 0.5 * each * passes < spent["flops"] < 2 * each * passes

    def test_the_draft_counts_too(self, lm, lm_problem):
        probe = Probe([Term(Fluency(), lm)])
        result = optimize(
            lm_problem, START, method=GCG(search_width=32), budget=Budget(steps=1), probe=probe
        )
        plain = optimize(lm_problem, START, method=GCG(search_width=32), budget=Budget(steps=1))
        assert result.spent["draft"] > 0
        each = plain.trajectory[0].flops
        assert result.spent["flops"] >= each * (result.spent["draft"] + result.spent["scored"])

    def test_losses_that_run_no_model_cost_nothing(self, lm):
        problem = Problem(lm, [Term(RepetitionPenalty(), lm)])
        result = optimize(problem, START, method=RandomSearch(), budget=Budget(steps=1))
        assert result.spent["flops"] == 0

    def test_models_that_cannot_be_counted_are_refused_or_not_told(
        self, lm, lm_problem, monkeypatch
    ):
        def refuse(whole, run, name):
            raise ModelError(f"{name}: its parameters cannot be counted", expected="some")

        monkeypatch.setattr("fuse_index.models.base.active_parameters", refuse)
        lm.__dict__.pop("active_parameters", None)
        with pytest.raises(ModelError, match="cannot be counted"):
            optimize(lm_problem, START, budget=Budget(flops=1e9))
        result = optimize(lm_problem, START, method=GCG(search_width=4), budget=Budget(steps=1))
        assert result.spent["flops"] is None
        assert result.trajectory[-1].flops is None


def _rows(problem):
    return Ragged.from_lists([problem.encode(START)])
