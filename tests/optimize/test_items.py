"""Several items in one objective: values, gradients, drawn and added items, costs, resumption."""

from __future__ import annotations

import numpy as np
import pytest

from fuse_index.models import Model
from fuse_index.objectives import ClassifierLabel, Fluency, TargetContinuation
from fuse_index.optimize import (
    GCG,
    Beam,
    Budget,
    Problem,
    RandomSearch,
    RunOptions,
    Stop,
    Term,
    TokenFilter,
    optimize,
)
from fuse_index.optimize.run import Run
from fuse_index.optimize.scoring import Scorer
from fuse_index.predict.gradients import Gradients
from fuse_index.predict.spent import Spent
from fuse_index.words.ragged import Ragged
from tests.demo_models import START

ITEMS = (
    {"prefix": "a lovely picture ", "target": " of a small square"},
    {"prefix": "the ", "suffix": " is", "target": " red"},
    {"target": " and a triangle"},
)
WORDS = TokenFilter(words_only=True)
FEW = GCG(search_width=12, positions=2)


def items_problem(lm: Model, *more: Term, items=ITEMS, **rule) -> Problem:
    objective = TargetContinuation(items=items, weight=2.0, **rule)
    return Problem(lm, [Term(objective, lm), *more], tokens=WORDS)


def alone(lm: Model, weight: float = 1.0) -> list[Problem]:
    """One problem for every item."""
    objectives = [TargetContinuation(weight=weight, **item) for item in ITEMS]
    return [Problem(lm, [Term(objective, lm)], tokens=WORDS) for objective in objectives]


def rows_of(problem: Problem, *texts: str) -> Ragged:
    return Ragged.from_lists([problem.encode(text) for text in texts])


def run_of(problem: Problem, *texts: str, method=FEW, **options) -> Run:
    initial = [problem.encode(text) for text in texts or (START,)]
    return Run(problem, initial, method=method, search=Beam(2), options=RunOptions(**options))


TEXTS = (START, "a lovely triangle above the square", "two red circles")


# losses and gradients


@pytest.mark.parametrize(
    ("rule", "reduce"), [("mean", np.mean), ("sum", np.sum), ("worst", np.max)]
)
def test_losses_of_items_are_those_of_objectives_alone(lm, rule, reduce):
    problem = items_problem(lm, Term(Fluency(weight=0.5), lm), combine=rule)
    expected = np.concatenate(
        [Scorer(own, Spent()).score(rows_of(own, *TEXTS)) for own in alone(lm)], axis=1
    )
    run = run_of(problem, *TEXTS)
    for state in run.search.frontier:
        row = [problem.encode(text) for text in TEXTS].index(state.ids)
        np.testing.assert_allclose(state.items[:3], expected[row], atol=1e-5)
        assert state.losses[0] == pytest.approx(reduce(expected[row]), abs=1e-5)
        assert state.total == pytest.approx(2 * state.losses[0] + 0.5 * state.items[3])
    found = run.result(Budget())
    assert found.items["continuation"] == pytest.approx(run.best.items[:3])
    assert found.losses["continuation"] == run.best.losses[0]
    assert list(found.items) == ["continuation"]


def test_a_mean_is_found_as_by_as_many_objectives(lm):
    terms = [Term(TargetContinuation(weight=2.0 / 3, **item), lm) for item in ITEMS]
    apart = Problem(lm, terms, tokens=WORDS)
    options = {"method": FEW, "budget": Budget(steps=4), "search": Beam(2)}
    one = optimize(items_problem(lm), START, **options)
    other = optimize(apart, START, **options)
    assert [point.ids for point in one.trajectory] == [point.ids for point in other.trajectory]
    assert one.total == pytest.approx(other.total, abs=1e-5)
    assert one.total < one.trajectory[0].total
    for name in ("scored", "gradients"):  # an item costs what a prompt of one objective costs
        assert one.spent[name] == 3 * other.spent[name]


@pytest.mark.parametrize("rule", ["mean", "sum", "worst"])
def test_weights_are_the_derivatives_of_the_total(lm, rule):
    run = run_of(items_problem(lm, combine=rule), *TEXTS)
    rows = rows_of(run.problem, *TEXTS)
    losses = run.scorer.score(rows)
    weights = run.context.weights(rows)
    if rule == "worst":
        assert len(set(losses.argmax(axis=1).tolist())) > 1
        np.testing.assert_array_equal(weights, 2.0 * (losses == losses.max(axis=1, keepdims=True)))
    else:
        np.testing.assert_allclose(weights, 2.0 / 3 if rule == "mean" else 2.0)


def test_the_worst_item_alone_is_followed_at_each_prompt(lm):
    run = run_of(items_problem(lm, combine="worst"), *TEXTS)
    rows = rows_of(run.problem, *TEXTS[:2])
    worst = run.scorer.score(rows).argmax(axis=1)
    assert worst[0] != worst[1]
    before = run.spent.gradients
    for row, item in enumerate(worst.tolist()):
        own = rows.select(np.array([row]))
        taken = run.gradients.tokens(own, run.context.weights(own)[0])
        expected = Gradients(alone(lm, 2.0)[item], Spent()).tokens(own, np.array([2.0]))
        np.testing.assert_allclose(taken, expected, atol=1e-4)
    assert run.spent.gradients == before + 2


def test_balanced_weights_count_the_items_together(lm):
    problem = items_problem(lm, Term(Fluency(weight=0.5), lm))
    run = run_of(problem, balance=True)
    gradients, rows = Gradients(problem, Spent()), rows_of(problem, START)
    mean = float(gradients.tokens(rows, np.array([1, 1, 1, 0]) / 3).norm())
    fluency = float(gradients.tokens(rows, np.array([0, 0, 0, 1.0])).norm())
    assert run.weights[0] * mean / (run.weights[1] * fluency) == pytest.approx(4.0, rel=1e-4)


# drawn items


def test_drawn_items_change_and_the_best_is_judged_on_all(lm):
    problem = items_problem(lm, items_per_step=2)
    result = optimize(problem, START, method=FEW, search=Beam(3), budget=Budget(steps=8))
    drawn = [point.items["continuation"] for point in result.trajectory]
    assert drawn[0] == (0, 1, 2)
    assert all(len(own) == 2 for own in drawn[1:])
    assert len(set(drawn[1:])) > 1
    best = [point.best for point in result.trajectory]
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[0]
    losses = Scorer(problem, Spent()).score(Ragged.from_lists([result.ids]))[0]
    assert result.total == pytest.approx(2 * losses.mean(), abs=1e-5)
    assert result.items["continuation"] == pytest.approx(losses, abs=1e-5)
    for point in result.trajectory[1:]:  # the search goes by the items of its step
        losses = Scorer(problem, Spent()).score(Ragged.from_lists([point.ids]))[0]
        mean = losses[list(point.items["continuation"])].mean()
        assert point.losses[0] == pytest.approx(mean, abs=1e-5)


def test_draws_follow_the_seed(lm):
    def drawn(seed: int) -> list[tuple[int, ...]]:
        result = optimize(
            items_problem(lm, items_per_step=1),
            START,
            method=RandomSearch(search_width=2),
            budget=Budget(steps=6),
            options=RunOptions(seed=seed),
        )
        return [point.items["continuation"] for point in result.trajectory]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_objectives_with_as_many_items_draw_the_same(lm, sentiment):
    labels = [{"label": "positive", "prefix": text} for text in ("", "so ", "very ")]
    term = Term(ClassifierLabel(items=labels, items_per_step=2), sentiment)
    problem = items_problem(lm, term, items_per_step=2)
    result = optimize(problem, START, method=RandomSearch(search_width=4), budget=Budget(steps=4))
    for point in result.trajectory:
        assert point.items["continuation"] == point.items["label"]
    assert result.spent["scored"] <= 3 + 4 * (2 + 4 * 2 + 3)


# items that are added


def easy_items(lm: Model) -> list[dict[str, str]]:
    """Two items that the model meets after the initial prompt, and one that it does not."""
    found = []
    for prefix in ("a lovely picture ", "the "):
        ids = [*lm.frame.head, *lm.words.encode_text(prefix), *lm.words.encode_running([START])[0]]
        (new,) = lm.generate([list(map(int, ids))], 2)
        found.append({"prefix": prefix, "target": lm.words.decode(new)})
    return [*found, {"target": " horrible horrible"}]


def test_an_item_is_added_once_all_so_far_are_met(lm):
    problem = items_problem(lm, items=easy_items(lm), progressive=True)
    run = run_of(problem)
    loss = problem.losses[0]
    assert bool(loss.is_satisfied([problem.encode(START)])[0])
    assert run.items.pool.tolist() == [True, True, True]  # two were met from the beginning
    hard = [ITEMS[0], *easy_items(lm)]
    run = run_of(items_problem(lm, items=hard, progressive=True))
    assert run.items.pool.tolist() == [True, False, False, False]
    assert run.spent.scored == 2  # the prompt, and whether it meets the first
    assert np.isnan(run.best.items[1:]).all()
    assert run.result(Budget()).items["continuation"][1:] == (None, None, None)


def test_what_was_found_is_judged_anew_when_an_item_is_added(lm):
    lead = easy_items(lm)
    problem = items_problem(lm, items=[lead[0], ITEMS[1]], progressive=True)
    other = "horrible horrible horrible horrible horrible"
    run = run_of(problem, other, other + " horrible", method=RandomSearch(search_width=4))
    assert not run.items.complete
    assert run.final_total == float("inf")
    rows = rows_of(problem, START)
    scored = run.valuation.scored(rows, run.valuation.losses(rows))
    before = run.best.total
    run._keep(scored, grown=False)
    assert run.items.complete
    assert run.best.total < before or run.best.items[1] > 0
    for state in (run.best, *run.search.frontier, *run.record.pareto):
        losses = Scorer(problem, Spent()).score(Ragged.from_lists([state.ids]))[0]
        assert state.total == pytest.approx(2 * losses.mean(), abs=1e-5)
    assert run.best.total == min(state.total for state in run.search.frontier)


def test_a_target_loss_waits_for_every_item(lm):
    items = [ITEMS[0], ITEMS[1]]
    problem = items_problem(lm, items=items, progressive=True)
    budget = Budget(steps=3, target_loss=1000.0)
    result = optimize(problem, START, method=RandomSearch(search_width=2), budget=budget)
    assert result.stop is Stop.STEPS
    whole = items_problem(lm, items=items)
    assert optimize(whole, START, method=FEW, budget=budget).stop is Stop.TARGET_LOSS


def test_a_run_ends_early_once_all_items_are_met(lm):
    items = easy_items(lm)[:2]
    problem = items_problem(lm, items=items, progressive=True)
    start = "a picture contains a small circle on the left"
    result = optimize(
        problem,
        [start, START.replace("small", "big")],
        method=RandomSearch(search_width=64),
        budget=Budget(steps=200),
        options=RunOptions(early_stop=True),
    )
    assert result.stop is Stop.MET
    for loss in problem.losses:
        assert bool(loss.is_satisfied([result.ids])[0])


def test_labels_are_met_where_they_are_predicted(lm, sentiment):
    items = [{"label": "positive"}, {"label": "negative", "prefix": "it is not "}]
    problem = Problem(lm, [Term(ClassifierLabel(items=items, progressive=True), sentiment)])
    assert run_of(problem, "a lovely picture", method=RandomSearch()).items.complete
    assert not run_of(problem, "a horrible picture", method=RandomSearch()).items.complete


# costs, survival, resumption, methods


def test_a_budget_counts_every_item(lm):
    problem = items_problem(lm, combine="sum")
    result = optimize(problem, START, method=FEW, budget=Budget(forward_passes=60))
    assert result.stop is Stop.FORWARD_PASSES
    assert result.spent["forward_passes"] <= 69
    assert result.trajectory[0].forward_passes == 3
    assert result.trajectory[1].forward_passes <= 3 + 9 + 36


def test_a_prompt_has_to_survive_in_every_item(lm):
    run = run_of(items_problem(lm))
    assert len(run.check._places) == 3
    assert len(set(run.problem.targets)) == 1  # and is retokenized once a model
