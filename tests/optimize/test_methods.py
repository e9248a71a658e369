"""What every method owes: the same result for the same seed, resumption bit for bit, progress."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fuse_index.errors import PromptError
from fuse_index.optimize import (
    GCG,
    METHODS,
    PEZ,
    SEARCHES,
    AutoDAN,
    Beam,
    Budget,
    Draw,
    Greedy,
    MethodOptions,
    Moves,
    Norm,
    Problem,
    RandomSearch,
    RunOptions,
    SearchOptions,
    Term,
    UniformCost,
    optimize,
)
from fuse_index.optimize.survival import _EMPTY_CANDIDATES, PromptCheck
from tests.demo_models import START

METHOD_CASES: dict[str, MethodOptions] = {
    "gcg": GCG(search_width=12, top_k=24, draw=Draw.UNIFORM, positions=0, memory=0),
    "gcg-best": GCG(search_width=12, positions=2, memory=32),
    "gcg-layers": GCG(search_width=12, positions=2, memory=32, predictor="layers"),
    "words": GCG(unit="word", search_width=12, predictor="embedding", draw=Draw.UNIFORM, memory=0),
    "words-layers": GCG(unit="word", search_width=12, positions=2, memory=32),
    "words-mixture": GCG(unit="word", search_width=12, predictor="mixture"),
    "moves": Moves(predictor="embedding", drafts=4, swaps=1, insertions=1, omissions=1),
    "autodan": AutoDAN(length=11, search_width=12, iterations=2, sweeps=1),
    "autodan-warm": AutoDAN(length=11, search_width=12, sweeps=2, temperature=2.0),
    "autodan-words": AutoDAN(
        unit="word", length=10, search_width=12, sweeps=1, temperature=0.5, predictor="embedding"
    ),
    "pez": PEZ(restarts=2),
    "pez-words": PEZ(unit="word", restarts=2, learning_rate=1.0),
    "pez-mixture": PEZ(unit="word", predictor="mixture", restarts=1, learning_rate=1.0),
    "random": RandomSearch(search_width=12),
    "random-l2": RandomSearch(search_width=12, norm=Norm.L2, radius=0.9),
    "random-words": RandomSearch(unit="word", search_width=12),
}
ALIKE = (
    "gcg-layers",
    "words",
    "words-mixture",
    "moves",
    "autodan-warm",
    "autodan-words",
    "pez-words",
    "pez-mixture",
    "random-words",
)
"""Methods that are tried with one search only."""
SEARCH_CASES: dict[str, SearchOptions] = {
    "greedy": Greedy(buffer=2),
    "beam": Beam(width=3),
    "uniform_cost": UniformCost(size=8),
}


def test_no_method_or_search_is_left_out() -> None:
    assert {options.type for options in METHOD_CASES.values()} == set(METHODS)
    assert set(SEARCH_CASES) == set(SEARCHES)
    for name, options in METHODS.items():
        assert options.type == name
        assert options().to_json()["type"] == name
        json.dumps(options().to_json())


def outcome(
    problem: Problem, method: str, search: str, steps: int, path: Path | None = None, seed: int = 3
) -> dict[str, Any]:
    """Everything a run gives, times and the limit apart."""
    result = optimize(
        problem,
        [START, "a small circle"],
        method=METHOD_CASES[method],
        search=SEARCH_CASES[search],
        budget=Budget(steps=steps),
        options=RunOptions(seed=seed),
        checkpoint=path,
    ).to_json()
    result["spent"].pop("seconds")
    result["configuration"].pop("budget")
    for point in result["trajectory"]:
        point.pop("seconds")
    return result


@pytest.mark.parametrize(
    ("method", "search"),
    [
        (method, search)
        for method in METHOD_CASES
        for search in SEARCH_CASES
        if method not in ALIKE or search == "beam"
    ],
)
def test_one_seed_one_result_and_resumption_bit_for_bit(
    problem: Problem, tmp_path: Path, method: str, search: str
) -> None:
    straight = outcome(problem, method, search, 5)
    assert len(straight["trajectory"]) == 6
    path = tmp_path / "run.checkpoint"
    first = outcome(problem, method, search, 3, path)
    assert first["trajectory"] == straight["trajectory"][:4]  # a second run with the seed
    assert outcome(problem, method, search, 5, path) == straight


@pytest.mark.parametrize(
    "method", ["gcg", "random", "random-l2", "autodan-warm", "words", "words-layers"]
)
def test_another_seed_another_way(problem: Problem, method: str) -> None:
    ways = [
        [point["ids"] for point in outcome(problem, method, "beam", 2, seed=seed)["trajectory"]]
        for seed in (0, 1)
    ]
    assert ways[0] != ways[1]


@pytest.mark.parametrize(
    ("method", "search"),
    [
        (method, search)
        for method in METHOD_CASES
        for search in ("greedy", "uniform_cost")
        if method not in ALIKE or search == "greedy"
    ],
)
def test_every_method_beats_its_start(problem: Problem, method: str, search: str) -> None:
    steps = {"pez": 25, "autodan-warm": 14}.get(method, 25 if "pez" in method else 4)
    found = outcome(problem, method, search, steps)
    start = found["trajectory"][0]["best"]
    assert found["total"] < start - 0.05
    assert found["total"] == min(point["best"] for point in found["trajectory"])
    text = found["text"]
    losses = [loss.score([loss.model.words.encode_text(text)]).item() for loss in problem.losses]
    assert found["total"] == pytest.approx(float(problem.weights @ losses), abs=1e-4)


@pytest.mark.parametrize("method", ["gcg", "autodan", "pez"])
def test_three_models_at_once(three_models: Problem, method: str) -> None:
    found = outcome(three_models, method, "beam", 12 if method == "pez" else 3)
    assert found["total"] < found["trajectory"][0]["best"]
    assert set(found["losses"]) == {"fluency", "image", "label"}


def test_methods_of_few_candidates_are_given_time(
    lm_problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one candidate a step, each refused in the full prompt: not the end after five of them
    calls: list[int] = []
    monkeypatch.setattr(PromptCheck, "__call__", lambda self, ids: calls.append(1) or False)
    problem = Problem(
        lm_problem.source,
        [Term(term.objective, term.model) for term in lm_problem.terms],
        tokens=lm_problem.tokens,
    )
    result = optimize(problem, START, method=PEZ(), budget=Budget(steps=40))
    assert len(calls) > 5
    assert result.ids == tuple(problem.encode(START))


def test_a_run_gives_up_where_the_full_prompt_refuses_all(
    lm_problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: PromptCheck, ids: tuple[int, ...]) -> bool:
        self.refusals[self.problem.source.name] += 1
        return False

    monkeypatch.setattr(PromptCheck, "__call__", refuse)
    method = RandomSearch(search_width=60)
    with pytest.raises(PromptError, match=r"no candidate of the last 5 steps survives") as caught:
        optimize(lm_problem, START, method=method)
    assert caught.value.result.spent["scored"] > _EMPTY_CANDIDATES
    assert caught.value.result.ids == tuple(lm_problem.encode(START))
