"""Searches against plain re-tellings of what they do, on random totals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import OptionError
from fuse_index.optimize import Beam, Greedy, SearchOptions, UniformCost
from fuse_index.optimize.search import Search
from fuse_index.optimize.state import Ids, Scored, State
from fuse_index.words.ragged import Ragged

Step = Sequence[tuple[int, float]]
"""Candidates by a number that makes their ids, with their totals."""

TOTALS = st.floats(0, 10).map(lambda x: round(x, 1))
STEP = st.lists(st.tuples(st.integers(0, 30), TOTALS), min_size=1, max_size=8)


def consistent(steps: Sequence[Step]) -> list[list[tuple[int, float]]]:
    """Give every prompt one total throughout, as scoring does, and drop repeats in a step."""
    known: dict[int, float] = {}
    return [
        list({name: (name, known.setdefault(name, total)) for name, total in step}.values())
        for step in steps
    ]


def state(name: int, total: float) -> State:
    return State((name, 1), (total,), total)


def scored(step: Step, refused: Sequence[int] = ()) -> Scored:
    totals = np.array([total for _, total in step], dtype=np.float64)
    rows = Ragged.from_lists([(name, 1) for name, _ in step])
    return Scored(rows, totals[:, None], totals, lambda ids: ids[0] not in refused)


def totals_of(search: Search) -> list[float]:
    return [item.total for item in search.frontier]


def ids_of(states: Sequence[State]) -> list[Ids]:
    return [item.ids for item in states]


@given(st.lists(STEP, min_size=2, max_size=8))
def test_greedy_keeps_the_best_so_far(steps: list[Step]) -> None:
    first, *rest = consistent(steps)
    search = Greedy().start([state(*item) for item in first])
    best = min(total for _, total in first)
    assert search.select()[0].total == best
    for step in rest:
        search.update(scored(step))
        best = min([best, *(total for _, total in step)])
        assert totals_of(search) == [best] == [search.select()[0].total]


@given(st.lists(STEP, min_size=2, max_size=8))
def test_greedy_without_the_current_prompt_takes_each_steps_best(steps: list[Step]) -> None:
    first, *rest = consistent(steps)
    search = Greedy(keep_current=False).start([state(*item) for item in first])
    for step in rest:
        search.update(scored(step))
        assert totals_of(search) == [min(total for _, total in step)]


@given(st.lists(STEP, min_size=2, max_size=10), st.integers(2, 4))
def test_buffer_replaces_its_worst(steps: list[Step], size: int) -> None:
    first, *rest = consistent(steps)
    search = Greedy(buffer=size).start([state(*item) for item in first])
    held = dict(sorted(first, key=lambda item: item[1])[:size])
    for step in rest:
        search.update(scored(step))
        new = [(total, name) for name, total in step if name not in held]
        if new and len(held) < size:
            held[min(new)[1]] = min(new)[0]
        elif new and min(new)[0] < max(held.values()):
            worst = max(held.values())
            del held[next(name for name in held if held[name] == worst)]
            held[min(new)[1]] = min(new)[0]
        assert totals_of(search) == sorted(held.values())
        assert search.select()[0].total == min(held.values())
        held = {item.ids[0]: item.total for item in search.frontier}  # equals may differ in name


@given(st.lists(STEP, min_size=2, max_size=8), st.integers(1, 5), st.booleans())
def test_beam_keeps_the_best_of_all(steps: list[Step], width: int, keep: bool) -> None:
    first, *rest = consistent(steps)
    search = Beam(width=width, keep_current=keep).start([state(*item) for item in first])
    held = sorted(total for _, total in first)[:width]
    names = set(ids_of(search.frontier))
    for step in rest:
        search.update(scored(step))
        new = [total for name, total in step if not keep or (name, 1) not in names]
        held = sorted([*(held if keep else []), *new])[:width]
        names = set(ids_of(search.frontier))
        assert totals_of(search) == held
        assert ids_of(search.select()) == ids_of(search.frontier)
        assert len(names) == len(held)


@given(st.lists(STEP, min_size=2, max_size=10), st.integers(1, 6))
def test_uniform_cost_returns_to_the_best_not_worked_on(steps: list[Step], size: int) -> None:
    first, *rest = consistent(steps)
    search = UniformCost(size=size).start([state(*item) for item in first])
    frontier = {(name, 1): total for name, total in first}
    worked: set[Ids] = set()
    for step in rest:
        (chosen,) = search.select()
        fresh = [total for ids, total in frontier.items() if ids not in worked]
        assert chosen.total == min(fresh or frontier.values())
        assert (chosen.ids in worked) == (not fresh)
        worked.add(chosen.ids)
        search.update(scored(step))
        frontier |= {(name, 1): total for name, total in step}
        assert totals_of(search) == sorted(frontier.values())[:size]
        frontier = {item.ids: item.total for item in search.frontier}
        worked &= set(frontier)
    assert len(search.frontier) <= size


@pytest.mark.parametrize("options", [Greedy(), Greedy(buffer=3), Beam(), UniformCost()])
def test_candidates_that_do_not_survive_are_passed_over(options: SearchOptions) -> None:
    search = options.start([state(0, 5.0)])
    search.update(scored([(1, 1.0), (2, 2.0), (3, 3.0)], refused=[1]))
    assert search.frontier[0].ids == (2, 1)
    search.update(scored([(4, 0.5)], refused=[4]))
    assert search.frontier[0].ids == (2, 1)


def test_grown_prompts_replace_those_they_come_from() -> None:
    greedy = Greedy(buffer=2).start([state(0, 1.0)])
    greedy.update(scored([(1, 9.0)]), grown=True)
    assert ids_of(greedy.frontier) == [(1, 1)]
    beam = Beam(width=2).start([state(0, 1.0), state(1, 2.0)])
    beam.update(scored([(2, 9.0)]), grown=True)
    assert ids_of(beam.frontier) == [(2, 1)]
    best_first = UniformCost().start([state(0, 1.0), state(1, 2.0)])
    best_first.select()
    best_first.update(scored([(2, 9.0)]), grown=True)
    assert ids_of(best_first.frontier) == [(1, 1), (2, 1)]  # only the one worked on is gone


@pytest.mark.parametrize("options", [Greedy(buffer=3), Beam(width=3), UniformCost(size=4)])
@given(steps=st.lists(STEP, min_size=4, max_size=8))
def test_a_resumed_search_goes_on_alike(options: SearchOptions, steps: list[Step]) -> None:
    first, *rest = consistent(steps)
    whole = options.start([state(*item) for item in first])
    half = len(rest) // 2
    for step in rest[:half]:
        whole.select()
        whole.update(scored(step))
    resumed = options.start([state(99, 0.0)])
    resumed.load_json(whole.to_json())
    for step in rest[half:]:
        assert whole.select() == resumed.select()
        whole.update(scored(step))
        resumed.update(scored(step))
        assert whole.frontier == resumed.frontier


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"greedy: buffer=0; expected at least 1"):
        Greedy(buffer=0)
    with pytest.raises(OptionError, match=r"beam: width=0; expected at least 1"):
        Beam(width=0)
    with pytest.raises(OptionError, match=r"uniform_cost: size=-1; expected at least 1"):
        UniformCost(size=-1)
