"""Which prompts run together, and that it changes their losses by rounding at most."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fuse_index.models import Model
from fuse_index.objectives import Fluency, TargetContinuation, TextSimilarity
from fuse_index.optimize import Problem, Term
from fuse_index.optimize import batches as module
from fuse_index.optimize.batches import plan_batches
from fuse_index.optimize.scoring import Scorer
from fuse_index.predict.spent import Spent
from fuse_index.words.ragged import Ragged

BASE = list(range(20, 32))


def variants(count: int, *, longer: bool = False) -> Ragged:
    """Prompts that differ from one in one place; longer ones have an id more there."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(count):
        at = int(generator.integers(len(BASE)))
        new = [int(generator.integers(40, 90)) for _ in range(1 + (longer and number % 3 == 0))]
        rows.append([*BASE[:at], *new, *BASE[at + 1 :]])
    return Ragged.from_lists(rows)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass costs nothing beside its positions."""
    monkeypatch.setattr(module, "pass_positions", lambda model: 0.0)


def positions(rows: Ragged, order: np.ndarray, parts: tuple[slice, ...], shares: bool) -> int:
    """Positions that the batches of a plan run."""
    total = 0
    for part in parts:
        own = [rows.to_lists()[i] for i in order[part]]
        same = 0
        if shares:
            columns = zip(*own, strict=False)
            same = next((i for i, ids in enumerate(columns) if len(set(ids)) > 1), len(own[0]))
        total += len(own) * (max(map(len, own)) - max(same - 1, 0))
    return total


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("most", [3, 8, 64])
def test_every_row_is_in_one_batch_of_at_most_so_many(lm: Model, clip: Model, most: int) -> None:
    rows = variants(40, longer=True)
    for loss in (Fluency().prepare(lm), TextSimilarity(texts="a").prepare(clip)):
        plan = plan_batches(loss, rows, most)
        assert sorted(plan.order.tolist()) == list(range(40))
        assert [part.start for part in plan.parts] == [0, *(p.stop for p in plan.parts[:-1])]
        assert plan.parts[-1].stop == 40
        assert max(part.stop - part.start for part in plan.parts) <= most


@pytest.mark.usefixtures("cheap")
def test_rows_that_begin_alike_run_together(lm: Model) -> None:
    loss = Fluency().prepare(lm)
    rows = variants(40)
    agreed = [sum(a == b for a, b in zip(row, BASE, strict=True)) for row in rows.to_lists()]
    assert min(agreed) == len(BASE) - 1
    where = [
        next(i for i, (a, b) in enumerate(zip(row, BASE, strict=True)) if a != b)
        for row in rows.to_lists()
    ]
    ordered = rows.select(np.argsort(-np.array(where), kind="stable"))
    plan = plan_batches(loss, ordered, 64)
    assert 4 <= len(plan.parts) <= len(set(where))
    ran = positions(ordered, plan.order, plan.parts, shares=True)
    assert ran <= 0.75 * rows.lengths.sum()


@pytest.mark.usefixtures("cheap")
def test_rows_of_one_length_run_together(clip: Model) -> None:
    loss = TextSimilarity(texts="a").prepare(clip)
    rows = variants(40, longer=True)
    plan = plan_batches(loss, rows, 64)
    lengths = rows.lengths[plan.order]
    assert all(len(set(lengths[part].tolist())) == 1 for part in plan.parts)
    assert positions(rows, plan.order, plan.parts, shares=False) == rows.lengths.sum()


def test_a_pass_that_costs_much_takes_all_rows(lm: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pass_positions", lambda model: 1e9)
    plan = plan_batches(Fluency().prepare(lm), variants(40, longer=True), 64)
    assert plan.parts == (slice(0, 40),)


def test_no_other_cut_is_cheaper() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        count = int(generator.integers(2, 8))
        lengths = generator.integers(1, 9, count)
        together = np.append(0, generator.integers(0, 6, count - 1))
        together[1:] = np.minimum(together[1:], np.minimum(lengths[1:], lengths[:-1]))
        fixed = float(generator.integers(0, 12))
        bounds = module._cheapest(lengths, together, 5, fixed)
        assert cost(bounds, lengths, together, fixed) == min(
            cost([0, *inner, count], lengths, together, fixed)
            for mask in range(1 << (count - 1))
            for inner in [[i + 1 for i in range(count - 1) if mask >> i & 1]]
            if all(b - a <= 5 for a, b in pairwise([0, *inner, count]))
        )


def cost(bounds: list[int], lengths: np.ndarray, together: np.ndarray, fixed: float) -> float:
    total = 0.0
    for a, b in pairwise(bounds):
        shared = min(together[a + 1 : b], default=0)
        total += fixed + (b - a) * (lengths[a:b].max() - max(shared - 1, 0))
    return total


@pytest.mark.usefixtures("cheap")
def test_losses_stay_whatever_runs_together(
    lm: Model, clip: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = [
        Term(Fluency(prefix="the picture"), lm),
        Term(TargetContinuation(target=" a blue cross"), lm),
        Term(TextSimilarity(texts="a blue cross"), clip),
    ]
    problem = Problem(lm, terms)
    rows = variants(30, longer=True)
    got = Scorer(problem, Spent()).score(rows, tuple(BASE))
    monkeypatch.setattr(module, "pass_positions", lambda model: None)
    expected = Scorer(problem, Spent(), batch_size=1).score(rows)
    torch.testing.assert_close(
        torch.from_numpy(got), torch.from_numpy(expected), rtol=1e-5, atol=1e-5
    )


def test_layers_that_are_not_found_or_on_a_gpu_give_no_plan(
    lm: Model, clip: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = module.pass_positions(clip), module.pass_positions(lm)
    assert small is not None
    assert large is not None
    assert small > large > 0
    monkeypatch.setattr(type(lm), "device", torch.device("cuda"))
    assert module.pass_positions(lm) is None
