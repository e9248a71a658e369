"""Momentum, direction and merged swaps of GCG: each against its definition."""

from __future__ import annotations

import pytest
import torch

from fuse_index.errors import OptionError
from fuse_index.optimize import GCG, Beam, Budget, Greedy, RunOptions, optimize
from fuse_index.optimize.methods.steering import Momentum, directed
from fuse_index.optimize.run import Run
from fuse_index.predict.ranking import Ranking
from tests.demo_models import START


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_momentum_is_the_running_mean_of_all_prompts() -> None:
    momentum, mean = Momentum(0.4), None
    for step in range(3):
        changes = [drawn(4, 9, seed=10 * step + i) for i in range(2)]
        found = momentum.carry([Ranking(own, torch.zeros(4).long()) for own in changes])
        both = torch.stack(changes).mean(0)
        for own, ranking in zip(changes, found, strict=True):
            expected = own if mean is None else 0.4 * mean + 0.6 * own
            torch.testing.assert_close(ranking.changes, expected)
            assert ranking.standing is not None
        mean = both if mean is None else 0.4 * mean + 0.6 * both
        again = Momentum(0.4)
        again.load_tensors(momentum.tensors())
        torch.testing.assert_close(again.tensors()["momentum"], mean)
    shorter = momentum.carry([Ranking(drawn(3, 9))])
    torch.testing.assert_close(shorter[0].changes, drawn(3, 9))  # other prompts: begun anew


def test_direction_keeps_the_steepest_ways() -> None:
    vectors, gradient, standing = drawn(50, 6), drawn(2, 6, seed=1), torch.tensor([7, 30])
    ranking = Ranking(gradient @ vectors.T, standing)
    found = directed(ranking, vectors[standing], vectors, 5)
    for place in range(2):
        way = vectors - vectors[standing[place]]
        cosine = -(way @ gradient[place]) / (way.norm(dim=1) * gradient[place].norm() + 1e-9)
        cosine[standing[place]] = -2
        kept = set(cosine.topk(5).indices.tolist())
        finite = found.changes[place].isfinite().nonzero()[:, 0].tolist()
        assert set(finite) == kept | {int(standing[place])}
    positions, units = found.best_of_all(4)
    assert all(found.changes[p, u].isfinite() for p, u in zip(positions, units, strict=True))
    assert directed(ranking, vectors[standing], vectors, 50) is ranking


@pytest.mark.parametrize("unit", ["token", "word"])
def test_the_best_swaps_are_tried_together(problem, unit) -> None:
    method = GCG(unit=unit, predictor="adapter", search_width=12, positions=4, merge=3, memory=0)
    initial = problem.encode(START)
    run = Run(problem, [initial], method=method, search=Greedy(), options=RunOptions())
    proposals = run.method.propose(run.search.select()).prompts.to_lists()
    units, before = run.method.units, run.method.units.spans(initial)
    words = [
        [own[a:b] for a, b in zip(s.offsets, s.offsets[1:], strict=False)]
        for own, s in ((row, units.spans(row)) for row in [list(initial), *proposals])
    ]
    start, rows = words[0], words[1:]
    assert all(len(row) == len(before) for row in rows)
    changed = [[i for i, w in enumerate(row) if w != start[i]] for row in rows]
    single = [i for i, own in enumerate(changed) if len(own) == 1]
    merged = [i for i, own in enumerate(changed) if len(own) > 1]
    assert [len(changed[i]) for i in merged] == [2, 3]
    totals = dict(zip(single, run.context.totals(_rows(proposals, single)).tolist(), strict=True))
    best: dict[int, int] = {}
    for index in sorted(totals, key=lambda i: totals[i]):
        best.setdefault(changed[index][0], index)
    for index in merged:
        chosen = list(best.items())[: len(changed[index])]
        assert sorted(changed[index]) == sorted(place for place, _ in chosen)
        for place, origin in chosen:
            assert rows[index][place] == rows[origin][place]


def _rows(proposals, kept):
    from fuse_index.words.ragged import Ragged

    return Ragged.from_lists([proposals[i] for i in kept])


OPTIONS = {
    "momentum": GCG(search_width=8, momentum=0.4),
    "direction": GCG(search_width=8, direction=20),
    "merge": GCG(search_width=8, merge=3),
    "all": GCG(search_width=8, momentum=0.4, direction=20, merge=3),
}


@pytest.mark.parametrize("method", OPTIONS.values(), ids=OPTIONS)
def test_a_run_goes_on_bit_for_bit(lm_problem, tmp_path, method) -> None:
    path = tmp_path / "run.ckpt"
    how = {"method": method, "search": Beam(width=2)}
    whole = optimize(lm_problem, START, budget=Budget(steps=4), **how)
    optimize(lm_problem, START, budget=Budget(steps=2), checkpoint=path, **how)
    resumed = optimize(lm_problem, START, budget=Budget(steps=4), checkpoint=path, **how)
    assert [p.ids for p in resumed.trajectory] == [p.ids for p in whole.trajectory]
    assert resumed.total == whole.total


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(OptionError, match="merge=3 with n_replace=2; expected n_replace 1"):
        GCG(draw="uniform", n_replace=2, merge=3)
    for other in ({"unit": "word"}, {"predictor": "layers"}):
        with pytest.raises(OptionError, match=r"momentum=0.4 with .*; expected tokens by adapter"):
            GCG(momentum=0.4, **other)
        with pytest.raises(OptionError, match=r"direction=9 with .*; expected tokens by adapter"):
            GCG(direction=9, **other)
    with pytest.raises(OptionError, match=r"momentum=1; expected at most 0.99"):
        GCG(momentum=1)
