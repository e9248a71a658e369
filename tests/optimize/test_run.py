"""Runs as a whole: limits, interrupts, checkpoints, failures, results."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest
import torch

from fuse_index.errors import LossError, OptionError
from fuse_index.objectives import CustomObjective, Fluency, TargetContinuation
from fuse_index.optimize import (
    GCG,
    Budget,
    Problem,
    Result,
    RunOptions,
    Stop,
    Term,
    optimize,
)
from fuse_index.optimize.result import pareto_front
from fuse_index.optimize.state import State
from tests.demo_models import START

SMALL = GCG(search_width=8, top_k=16)


def trace(result: Result) -> list:
    return [(p.step, p.ids, p.losses, p.forward_passes, p.best) for p in result.trajectory]


class TestBudget:
    def test_steps(self, lm_problem):
        result = optimize(lm_problem, START, method=SMALL, budget=Budget(steps=3))
        assert result.stop is Stop.STEPS
        assert result.spent["steps"] == 3 == result.trajectory[-1].step

    def test_forward_passes_are_kept_to(self, lm_problem):
        budget = Budget(steps=None, forward_passes=40)
        result = optimize(lm_problem, START, method=SMALL, budget=budget)
        assert result.stop is Stop.FORWARD_PASSES
        assert 40 <= result.spent["forward_passes"] <= 40 + 3
        spent = result.spent
        assert spent["forward_passes"] == spent["scored"] + 3 * spent["gradients"]

    def test_seconds(self, lm_problem):
        budget = Budget(steps=None, seconds=1e-9)
        result = optimize(lm_problem, START, method=SMALL, budget=budget)
        assert result.stop is Stop.SECONDS
        assert result.spent["steps"] == 0

    def test_target_loss(self, lm_problem):
        result = optimize(lm_problem, START, method=SMALL, budget=Budget(target_loss=1e3))
        assert result.stop is Stop.TARGET_LOSS
        assert result.total <= 1e3


def test_a_run_says_what_it_did(problem):
    result = optimize(problem, START, method=SMALL, budget=Budget(steps=2))
    assert result.text == problem.decode(result.ids)
    assert set(result.losses) == {"fluency", "image"} == set(result.weights)
    total = sum(result.weights[name] * loss for name, loss in result.losses.items())
    assert result.total == pytest.approx(total)
    assert result.total == min(point.total for point in result.trajectory)
    assert result.configuration["options"]["seed"] == 0
    assert result.configuration["method"]["type"] == "gcg"
    assert result.versions["torch"] == torch.__version__.split("+")[0] or result.versions["torch"]


def test_results_survive_json(problem, tmp_path):
    result = optimize(problem, START, method=SMALL, budget=Budget(steps=2))
    result.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == result
    assert list(tmp_path.iterdir()) == [tmp_path / "result.json"], "nothing else is left"
    (tmp_path / "other.json").write_text('{"format": "something"}')
    with pytest.raises(OptionError, match=r"other.json: format 'something'.*a result of fuse_in"):
        Result.load(tmp_path / "other.json")


def test_several_initial_prompts_as_texts_and_ids(lm_problem):
    other = lm_problem.encode("a lovely triangle")
    result = optimize(lm_problem, [START, other], method=SMALL, budget=Budget(steps=1))
    assert result.configuration["initial"] == [list(lm_problem.encode(START)), list(other)]
    with pytest.raises(OptionError, match="no initial prompt"):
        optimize(lm_problem, [])
    with pytest.raises(OptionError, match="an initial prompt of 0 tokens"):
        optimize(lm_problem, [[]])
    with pytest.raises(OptionError, match="token ids from 3 to 99999"):
        optimize(lm_problem, [[3, 99999]])


def test_balanced_weights_make_gradients_alike(problem):
    result = optimize(
        problem, START, method=SMALL, budget=Budget(steps=1), options=RunOptions(balance=True)
    )
    from fuse_index.optimize import Spent
    from fuse_index.predict import Gradients
    from fuse_index.words.ragged import Ragged

    norms = Gradients(problem, Spent()).norms(Ragged.from_lists([problem.encode(START)]))
    lengths = np.array(list(result.weights.values())) * norms
    assert lengths[1] / lengths[0] == pytest.approx(2.0 / 0.1, rel=1e-4)


def test_early_stop_ends_with_the_target_being_likeliest(lm):
    ids = lm.words.encode_text(f" {START}")
    model_says = _greedy(lm, ids, 2)
    objective = TargetContinuation(target=lm.words.decode(model_says))
    problem = Problem(lm, [Term(objective, lm)])
    assert bool(problem.losses[0].is_satisfied([ids])[0])
    other = list(problem.encode("the horrible horrible horrible horrible"))
    assert not bool(problem.losses[0].is_satisfied([other])[0])
    result = optimize(
        problem,
        [other],
        method=GCG(search_width=64, top_k=64),
        budget=Budget(steps=60),
        options=RunOptions(early_stop=True),
    )
    assert result.stop is Stop.MET
    assert bool(problem.losses[0].is_satisfied([list(result.ids)])[0])
    with pytest.raises(OptionError, match="early_stop without an objective that can be met"):
        optimize(Problem(lm, [Term(Fluency(), lm)]), START, options=RunOptions(early_stop=True))


def _greedy(lm, ids: list[int], count: int) -> list[int]:
    out = list(ids)
    for _ in range(count):
        batch = lm.batch([out])
        logits = lm.forward(lm.embed(batch.ids), batch).logits
        out.append(int(logits[0, -1].argmax()))
    return out[len(ids) :]


class TestInterrupt:
    def test_the_first_one_ends_the_run_after_its_step(self, lm_problem, tmp_path):
        def interrupt(run, point):
            if point.step == 2:
                signal.raise_signal(signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        path = tmp_path / "run.ckpt"
        stopped = optimize(
            lm_problem,
            START,
            method=SMALL,
            budget=Budget(steps=5),
            checkpoint=path,
            callbacks=[interrupt],
        )
        assert stopped.stop is Stop.INTERRUPTED
        assert stopped.spent["steps"] == 2
        assert signal.getsignal(signal.SIGINT) is before
        resumed = optimize(lm_problem, START, method=SMALL, budget=Budget(steps=5), checkpoint=path)
        straight = optimize(lm_problem, START, method=SMALL, budget=Budget(steps=5))
        assert trace(resumed) == trace(straight)
        assert resumed.pareto == straight.pareto

    def test_the_second_one_ends_it_at_once(self, lm):
        calls = []

        def impatient(model, embeds, batch):
            calls.append(len(batch))
            if len(calls) > 4:
                signal.raise_signal(signal.SIGINT)
            return embeds.square().mean(dim=(1, 2))

        problem = Problem(lm, [Term(CustomObjective(function=impatient), lm)])
        options = RunOptions(batch_size=1)
        result = optimize(problem, START, method=SMALL, options=options)
        assert result.stop is Stop.INTERRUPTED
        assert len(calls) == 6
        assert math.isfinite(result.total)


def test_a_failure_keeps_the_best_so_far_and_the_checkpoint(lm, tmp_path):
    seen = []

    def poisoned(model, embeds, batch):
        seen.append(len(batch))
        value = embeds.square().mean(dim=(1, 2))
        return value * float("nan") if len(seen) > 12 else value

    problem = Problem(lm, [Term(CustomObjective(function=poisoned), lm)])
    path = tmp_path / "run.ckpt"
    with pytest.raises(LossError, match="is nan for the prompt") as error:
        optimize(problem, START, method=SMALL, checkpoint=path, checkpoint_every=1)
    result = error.value.result
    assert result.stop is Stop.FAILED
    assert result.spent["steps"] >= 2
    assert result.total <= result.trajectory[0].total
    assert path.exists()


def test_pareto_front_holds_what_nothing_beats():
    rng = np.random.default_rng(0)
    states = [State((i,), tuple(rng.integers(0, 6, 2) / 1.0), 0.0) for i in range(40)]
    states = [State(s.ids, s.losses, sum(s.losses)) for s in states]
    front = pareto_front(states, 99)
    for state in states:
        beaten = any(
            all(a <= b for a, b in zip(other.losses, state.losses, strict=True))
            and other.losses != state.losses
            for other in states
        )
        assert (state.losses in [kept.losses for kept in front]) == (not beaten)
    assert len({kept.losses for kept in front}) == len(front)
    assert [kept.total for kept in front] == sorted(kept.total for kept in front)


def test_every_point_of_a_runs_front_is_scored_and_unbeaten(problem):
    result = optimize(problem, START, method=SMALL, budget=Budget(steps=4))
    points = [tuple(point.losses.values()) for point in result.pareto]
    assert len(points) > 1
    for own in points:
        assert not any(
            all(a <= b for a, b in zip(other, own, strict=True)) for other in points if other != own
        )
