"""GCG: its sampling against nanoGCG's, its ranking against brute force."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.models import Model
from fuse_index.objectives import CustomTextObjective, Fluency, ImageSimilarity
from fuse_index.optimize import (
    GCG,
    Budget,
    Draw,
    Greedy,
    Problem,
    Run,
    RunOptions,
    Term,
    TokenFilter,
    Unit,
    optimize,
)
from fuse_index.optimize.methods.gcg import sample_ranks
from fuse_index.predict import Ranking
from fuse_index.words.ragged import Ragged
from tests.demo_models import BASE, START


def nanogcg_sample_ids_from_grad(
    ids: Tensor, grad: Tensor, search_width: int, topk: int, n_replace: int, not_allowed: Tensor
) -> Tensor:
    """What nanoGCG 0.3.0 draws, with torch's global generator, written down from its description:

    not-allowed ids are set to infinity, each row swaps the positions of the ``n_replace`` smallest
    of uniform numbers for one of the ``topk`` tokens with the smallest gradient.
    """
    original = ids.repeat(search_width, 1)
    grad[:, not_allowed] = float("inf")
    topk_ids = (-grad).topk(topk, dim=1).indices
    positions = torch.argsort(torch.rand((search_width, len(ids))))[..., :n_replace]
    ranks = torch.randint(0, topk, (search_width, n_replace, 1))
    tokens = torch.gather(topk_ids[positions], 2, ranks).squeeze(2)
    return original.scatter_(1, positions, tokens)


def swapped(
    ids: Tensor, top: Tensor, count: int, n_replace: int, generator: torch.Generator
) -> Tensor:
    """Prompts with the units that are drawn in the positions that are drawn."""
    positions, units = sample_ranks(top, count, n_replace, generator)
    return ids.repeat(count, 1).scatter_(1, positions, units)


@pytest.mark.smoke
@pytest.mark.parametrize("n_replace", [1, 3])
@pytest.mark.parametrize("seed", [0, 7])
def test_draws_are_nanogcgs(seed: int, n_replace: int) -> None:
    grad = torch.randn((6, 50), generator=torch.Generator().manual_seed(99))
    ids, not_allowed = torch.arange(6), torch.tensor([3, 17, 40])
    scores = grad.clone()
    scores[:, not_allowed] = float("inf")
    generator = torch.Generator().manual_seed(seed)
    got = swapped(ids, Ranking(scores).best(8), 64, n_replace, generator)
    torch.manual_seed(seed)
    expected = nanogcg_sample_ids_from_grad(ids, grad, 64, 8, n_replace, not_allowed)
    assert torch.equal(got, expected)


def test_swaps_are_allowed_and_as_many_as_asked() -> None:
    ids = torch.tensor([90, 91, 92, 93])
    top = torch.arange(20).reshape(4, 5)
    rows = swapped(ids, top, 500, 2, torch.Generator().manual_seed(0))
    assert rows.shape == (500, 4)
    changed = rows != ids
    assert (changed.sum(dim=1) == 2).all()  # no token of the prompt is among the best
    for position in range(4):
        drawn = rows[changed[:, position], position]
        assert set(drawn.tolist()) == set(top[position].tolist())


def test_every_swap_is_as_likely_as_the_others() -> None:
    ids = torch.full((5,), 99)
    top = torch.arange(20).reshape(5, 4)
    rows = swapped(ids, top, 20_000, 1, torch.Generator().manual_seed(1))
    counts = torch.bincount(rows[rows != 99], minlength=20)
    # 1000 expected; four standard deviations of a binomial count
    assert (counts - 1000).abs().max() < 4 * (20_000 * 0.05 * 0.95) ** 0.5


def test_n_replace_beyond_the_prompt_replaces_all_of_it() -> None:
    rows = swapped(
        torch.tensor([8, 9]), torch.tensor([[1], [2]]), 3, 5, torch.Generator().manual_seed(0)
    )
    assert rows.tolist() == [[1, 2]] * 3


def test_best_draws_do_not_propose_what_was_scored(lm_problem: Problem) -> None:
    method = GCG(search_width=16, positions=0, memory=0)
    result = optimize(lm_problem, START, method=method, search=Greedy(), budget=Budget(steps=6))
    assert result.spent["recalled"] == 0
    assert result.spent["scored"] == 1 + 6 * 16


def test_only_allowed_tokens_come_in(lm: Model) -> None:
    tokens = TokenFilter(allow_pattern=" (blue|green|star|moon)")
    seen: set[str] = set()

    def remember(texts: Sequence[str]) -> list[float]:
        seen.update(word for text in texts for word in text.split())
        return [0.0] * len(texts)

    terms = [Term(Fluency(), lm), Term(CustomTextObjective(function=remember), lm)]
    problem = Problem(lm, terms, tokens=tokens)
    optimize(problem, START, method=GCG(search_width=32, draw=Draw.UNIFORM), budget=Budget(steps=3))
    assert seen == {*START.split(), "blue", "green", "star", "moon"}


@pytest.mark.smoke
@pytest.mark.parametrize("predictor", ["embedding", "adapter", "mixture", "layers"])
@pytest.mark.parametrize("draw", ["uniform", "best"])
def test_candidates_swap_whole_words(clip_only: Problem, predictor: str, draw: str) -> None:
    method = GCG(
        unit="word",
        predictor=predictor,
        draw=draw,
        search_width=12,
        top_k=8,
        positions=3,
        memory=0,
    )
    result = optimize(clip_only, BASE, method=method, budget=Budget(steps=4))
    assert result.total < result.trajectory[0].total
    assert set(result.text.split()) <= {*BASE.split(), *clip_only.word_units.words}
    assert len(result.text.split()) == len(BASE.split())
    assert result.spent["gradients"] == 4 * (3 if predictor == "layers" else 1)


@pytest.mark.parametrize("draw", list(Draw))
@pytest.mark.parametrize("predictor", ["adapter", "embedding", "layers"])
def test_it_can_work_on_few_positions(problem: Problem, draw: Draw, predictor: str) -> None:
    method = GCG(search_width=20, positions=2, draw=draw, predictor=predictor)
    run = started(problem, method)
    states = run.search.select()
    rows = run.method.propose(states).prompts.padded()
    changed = (rows != np.array(states[0].ids)).any(axis=0)
    assert 1 <= changed.sum() <= 2
    assert len(rows) == 20


def test_some_predictors_of_words_need_no_adapter(
    lm: Model, clip: Model, image_path: Path, clip_only: Problem
) -> None:
    words = clip_only.word_units.words
    problem = Problem(lm, [Term(ImageSimilarity(images=image_path), clip)], words=words)
    for predictor in ("embedding", "layers"):
        method = GCG(unit="word", predictor=predictor, search_width=12)
        result = optimize(problem, BASE, method=method, budget=Budget(steps=2))
        assert result.total < result.trajectory[0].total
    for predictor in ("adapter", "mixture"):
        with pytest.raises(OptionError, match="no adapter from"):
            optimize(problem, BASE, method=GCG(unit="word", predictor=predictor))


@pytest.mark.parametrize("predictor", ["embedding", "layers"])
def test_tokens_of_other_models_need_no_adapter(
    lm: Model, clip: Model, image_path: Path, predictor: str
) -> None:
    problem = Problem(lm, [Term(ImageSimilarity(images=image_path), clip)])
    method = GCG(predictor=predictor, search_width=12, positions=3)
    result = optimize(problem, START, method=method, budget=Budget(steps=3))
    assert result.total < result.trajectory[0].total
    assert result.spent["gradients"] == 3 * (3 if predictor == "layers" else 1)


# what scored candidates taught


def started(problem: Problem, method: GCG) -> Run:
    initial = [problem.encode(START)]
    options = RunOptions(seed=2)
    return Run(problem, initial, method=method, search=Greedy(), options=options)


def test_what_swaps_changed_is_counted_from_the_prompt_that_stands(problem: Problem) -> None:
    run = started(problem, GCG(search_width=40, memory=99, positions=2))
    for _ in range(3):
        run.step()
    before = run.search.select()[0]
    kriging = run.method._kriging  # type: ignore[attr-defined]
    kriging.move_to(before.ids)
    tensors = run.method.tensors()
    firsts = problem.units(Unit.TOKEN).firsts
    exact = 0
    changes = tensors["kriging.changes"].tolist()
    for (position, unit), change in zip(tensors["kriging.units"].tolist(), changes, strict=True):
        ids = list(before.ids)
        ids[position] = int(firsts[unit])
        total = float(run.context.totals(Ragged.from_lists([ids]))[0])
        exact += abs(total - before.total - change) < 1e-5
    # swaps in the position that moved last, or of a step that moved nothing, are known exactly
    assert exact >= 5


def test_only_the_latest_are_remembered(problem: Problem) -> None:
    run = started(problem, GCG(search_width=40, memory=3, positions=1))
    for _ in range(3):
        run.step()
    units = run.method.tensors()["kriging.units"]
    assert torch.bincount(units[:, 0]).max() == 3


@pytest.mark.parametrize("unit", list(Unit))
def test_memory_costs_no_passes_and_changes_what_is_tried(problem: Problem, unit: Unit) -> None:
    tried, spent = [], []
    for memory in (0, 32):
        run = started(problem, GCG(unit=unit, search_width=45, positions=0, memory=memory))
        run.step()
        tried.append(run.method.propose(run.search.select()).prompts.to_lists())
        spent.append(run.spent.forward_passes)
    assert spent[0] == spent[1]
    assert tried[0] != tried[1]


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"gcg: search_width=0; expected at least 1"):
        GCG(search_width=0)
    with pytest.raises(OptionError, match=r"gcg: n_replace=True; expected a whole number"):
        GCG(n_replace=True)
    with pytest.raises(OptionError, match=r"gcg: draw 'worst'; expected one of best, uniform"):
        GCG(draw="worst")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"gcg: draw 'best' with n_replace=2; expected 1"):
        GCG(draw=Draw.BEST, n_replace=2)
    with pytest.raises(OptionError, match=r"gcg: predictor 'luck'; expected one of embedding"):
        GCG(predictor="luck")
    with pytest.raises(OptionError, match=r"gcg: unit 'letter'; expected one of token, word"):
        GCG(unit="letter")
    with pytest.raises(OptionError, match=r"gcg: positions=-1; expected at least 0"):
        GCG(positions=-1)
    with pytest.raises(OptionError, match=r"predictor 'mixture' with unit 'token'; expected adapt"):
        GCG(predictor="mixture")


def test_defaults_depend_on_the_unit() -> None:
    tokens, words = GCG(), GCG(unit="word")
    assert (tokens.predictor, tokens.search_width, tokens.positions) == ("embedding", 128, 4)
    assert (words.predictor, words.search_width, words.positions) == ("layers", 24, 3)
    assert tokens.to_json() == {
        "type": "gcg",
        "unit": "token",
        "predictor": "embedding",
        "search_width": 128,
        "draw": "best",
        "positions": 4,
        "memory": 64,
        "top_k": 256,
        "n_replace": 1,
        "residual_scale": 1.0,
        "momentum": 0.0,
        "direction": 0,
        "merge": 0,
    }
    assert GCG(**{k: v for k, v in words.to_json().items() if k != "type"}) == words
