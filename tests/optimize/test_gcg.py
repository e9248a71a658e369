"""GCG: its sampling against nanoGCG's, its ranking against brute force."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.models import Model
from fuse_index.objectives import CustomTextObjective, Fluency
from fuse_index.optimize import GCG, Budget, Draw, Greedy, Problem, Term, TokenFilter, optimize
from fuse_index.optimize.methods.gcg import sample_ranks
from fuse_index.predict import Ranking
from tests.demo_models import START


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


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"gcg: search_width=0; expected at least 1"):
        GCG(search_width=0)
    with pytest.raises(OptionError, match=r"gcg: n_replace=True; expected a whole number"):
        GCG(n_replace=True)
    with pytest.raises(OptionError, match=r"gcg: draw 'worst'; expected one of best, uniform"):
        GCG(draw="worst")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"gcg: draw 'best' with n_replace=2; expected 1"):
        GCG(draw=Draw.BEST, n_replace=2)
