"""Several items in one objective: every method, resumption, and what refuses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fuse_index.errors import OptionError
from fuse_index.objectives import Fluency, TargetContinuation, TextSimilarity
from fuse_index.optimize import (
    GCG,
    PEZ,
    AutoDAN,
    Beam,
    Budget,
    Moves,
    Probe,
    Problem,
    RandomSearch,
    RunOptions,
    Term,
    optimize,
)
from fuse_index.optimize.checkpoint import Checkpoint
from fuse_index.optimize.items import ActiveItems
from fuse_index.optimize.scoring import Scorer
from fuse_index.optimize.search import Greedy
from fuse_index.predict.spent import Spent
from tests.demo_models import START
from tests.optimize.test_items import (
    FEW,
    ITEMS,
    WORDS,
    easy_items,
    items_problem,
    rows_of,
)

METHODS = {
    "gcg": FEW,
    "gcg words": GCG(unit="word", predictor="embedding", search_width=6, positions=2),
    "gcg layers": GCG(unit="word", predictor="layers", search_width=6, positions=2),
    "autodan": AutoDAN(length=12, search_width=6, iterations=2),
    "autodan words": AutoDAN(unit="word", predictor="embedding", length=12, search_width=6),
    "pez": PEZ(learning_rate=1.0, restarts=1),
    "random": RandomSearch(search_width=6),
}
RULES = {
    "worst of two": {"combine": "worst", "items_per_step": 2},
    "sum of those added": {"combine": "sum", "progressive": True},
    "drawn of those added": {"items_per_step": 1, "progressive": True},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", RULES)
def test_a_run_is_resumed_bit_for_bit(lm, sentiment, tmp_path: Path, method, rule):
    easy = easy_items(lm)
    items = [easy[0], ITEMS[1], ITEMS[2]]
    words = [
        "small",
        "red",
        "lovely",
        "horrible",
        "circle",
        "square",
        "triangle",
        "picture",
        "above",
        "below",
    ]
    terms = [
        Term(TargetContinuation(items=items, **RULES[rule]), lm),
        Term(Fluency(weight=0.1), lm),
    ]
    problem = Problem(lm, terms, tokens=WORDS, words=words)
    kept: list[list[tuple[object, ...]]] = []

    def go(path: Path, *steps: int) -> None:
        for count in steps:
            result = optimize(
                problem,
                [START, "a lovely circle"],
                method=METHODS[method],
                search=Beam(2),
                budget=Budget(steps=count),
                checkpoint=path,
                options=RunOptions(seed=3),
            )
        kept.append([(p.ids, p.total, p.best, p.items) for p in result.trajectory])

    go(tmp_path / "whole", 4)
    go(tmp_path / "parts", 1, 2, 4)
    assert kept[0] == kept[1]
    assert len(kept[0]) > 2
    saved = [Checkpoint.load(tmp_path / name) for name in ("whole", "parts")]
    assert saved[0].values["items"] == saved[1].values["items"]


def test_a_problem_without_items_saves_none(lm_problem, tmp_path):
    optimize(
        lm_problem, START, method=FEW, budget=Budget(steps=1), checkpoint=tmp_path / "checkpoint"
    )
    assert Checkpoint.load(tmp_path / "checkpoint").values["items"] is None


def test_moves_need_items_that_stay(lm):
    words = ["small", "red", "lovely", "circle", "square"]
    moves = Moves(predictor="embedding", drafts=4, rewrites=4, crossings=4)
    for rule in ({"items_per_step": 1}, {"progressive": True}):
        objective = TargetContinuation(items=ITEMS, **rule)
        problem = Problem(lm, [Term(objective, lm)], words=words)
        with pytest.raises(OptionError, match="method 'moves' with items that change"):
            optimize(problem, START, method=moves)
    problem = Problem(lm, [Term(TargetContinuation(items=ITEMS), lm)], words=words)
    result = optimize(problem, START, method=moves, budget=Budget(forward_passes=200))
    assert result.total < result.trajectory[0].total
    assert result.spent["forward_passes"] <= 230


def test_a_draft_takes_all_its_items(lm, sentiment):
    problem = items_problem(lm, items_per_step=2)
    draft = Term(TargetContinuation(items=ITEMS[:2]), lm)
    result = optimize(
        problem,
        START,
        method=RandomSearch(search_width=40),
        budget=Budget(steps=3),
        probe=Probe((draft,)),
    )
    assert result.spent["draft"] > 0
    assert result.total < result.trajectory[0].total
    changing = Term(TargetContinuation(items=ITEMS, items_per_step=1), lm)
    with pytest.raises(OptionError, match="probe: an objective with items_per_step"):
        optimize(problem, START, method=FEW, probe=Probe((changing,)))


def test_items_of_similarities(lm, clip):
    items = [{"texts": "a red circle"}, {"texts": "a blue square", "prefix": "here is "}]
    problem = Problem(lm, [Term(TextSimilarity(items=items, combine="worst"), clip)], tokens=WORDS)
    result = optimize(problem, START, method=RandomSearch(search_width=32), budget=Budget(steps=3))
    assert result.total == pytest.approx(max(result.items["text"]))
    assert result.total < result.trajectory[0].total
    assert result.from_json(result.to_json()) == result


def test_a_prompt_without_room_in_an_item_is_left_out(lm):
    """Also in one that does not count yet."""
    long = " ".join(["small"] * (lm.positions - 15))
    items = [ITEMS[0], {"prefix": long, "target": " red"}]
    problem = items_problem(lm, items=items, progressive=True)
    scorer = Scorer(problem, Spent())
    active = ActiveItems(problem.items).active
    assert active.tolist() == [True, False]
    found = scorer.score(rows_of(problem, "a circle", " ".join([START] * 3)), None, active)
    assert np.isfinite(found[0, 0])
    assert np.isnan(found[0, 1])
    assert np.isinf(found[1]).all()
    assert scorer.spent.scored == 1


def test_greedy_replaces_by_the_items_of_the_step(lm):
    problem = items_problem(lm, items_per_step=1)
    result = optimize(problem, START, method=FEW, search=Greedy(), budget=Budget(steps=3))
    assert result.total <= result.trajectory[0].total
