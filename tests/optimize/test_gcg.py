"""GCG: its sampling against nanoGCG's, its ranking against brute force."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.models import Model
from fuse_index.objectives import CustomTextObjective, Fluency
from fuse_index.optimize import GCG, Budget, Draw, Greedy, Problem, Term, TokenFilter, optimize
from fuse_index.optimize.methods.gcg import best_swaps, sample_swaps, top_tokens
from tests.optimize.conftest import START


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


@pytest.mark.parametrize("n_replace", [1, 3])
@pytest.mark.parametrize("seed", [0, 7])
def test_draws_are_nanogcgs(seed: int, n_replace: int) -> None:
    grad = torch.randn((6, 50), generator=torch.Generator().manual_seed(99))
    ids, not_allowed = torch.arange(6), torch.tensor([3, 17, 40])
    scores = grad.clone()
    scores[:, not_allowed] = float("inf")
    got = sample_swaps(
        ids, top_tokens(scores, 8), 64, n_replace, torch.Generator().manual_seed(seed)
    )
    torch.manual_seed(seed)
    expected = nanogcg_sample_ids_from_grad(ids, grad, 64, 8, n_replace, not_allowed)
    assert torch.equal(got, expected)


def test_swaps_are_allowed_and_as_many_as_asked() -> None:
    ids = torch.tensor([90, 91, 92, 93])
    top = torch.arange(20).reshape(4, 5)
    rows = sample_swaps(ids, top, 500, 2, torch.Generator().manual_seed(0))
    assert rows.shape == (500, 4)
    changed = rows != ids
    assert (changed.sum(dim=1) == 2).all()  # no token of the prompt is among the best
    for position in range(4):
        drawn = rows[changed[:, position], position]
        assert set(drawn.tolist()) == set(top[position].tolist())


def test_every_swap_is_as_likely_as_the_others() -> None:
    ids = torch.full((5,), 99)
    top = torch.arange(20).reshape(5, 4)
    rows = sample_swaps(ids, top, 20_000, 1, torch.Generator().manual_seed(1))
    counts = torch.bincount(rows[rows != 99], minlength=20)
    # 1000 expected; four standard deviations of a binomial count
    assert (counts - 1000).abs().max() < 4 * (20_000 * 0.05 * 0.95) ** 0.5


def test_n_replace_beyond_the_prompt_replaces_all_of_it() -> None:
    rows = sample_swaps(
        torch.tensor([8, 9]), torch.tensor([[1], [2]]), 3, 5, torch.Generator().manual_seed(0)
    )
    assert rows.tolist() == [[1, 2]] * 3


def test_top_tokens_leave_out_what_is_not_allowed() -> None:
    scores = torch.tensor([[3.0, float("inf"), 1.0, 2.0], [0.0, float("inf"), 5.0, -1.0]])
    assert top_tokens(scores, 2).tolist() == [[2, 3], [3, 0]]
    assert top_tokens(scores, 99).tolist() == [[2, 3, 0], [3, 0, 2]]


@given(
    seed=st.integers(0, 10_000),
    length=st.integers(1, 5),
    vocabulary=st.integers(2, 9),
    count=st.integers(1, 60),
)
def test_best_swaps_against_brute_force(
    seed: int, length: int, vocabulary: int, count: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn((length, vocabulary), generator=generator)
    banned = torch.rand(vocabulary, generator=generator) < 0.3
    scores[:, banned] = float("inf")
    ids = torch.randint(0, vocabulary, (length,), generator=generator)
    changes = {}
    for position in range(length):
        here = float(scores[position, ids[position]])
        base = 0.0 if np.isinf(here) else here
        for token in range(vocabulary):
            if not banned[token] and token != ids[position]:
                row = ids.clone()
                row[position] = token
                changes[tuple(row.tolist())] = float(scores[position, token]) - base
    got = [tuple(row) for row in best_swaps(ids, scores, count).tolist()]
    assert len(got) == len(set(got)) == min(count, len(changes))
    ranked = sorted(changes.values())
    assert [changes[row] for row in got] == pytest.approx(ranked[: len(got)], abs=1e-6)


def test_best_draws_do_not_propose_what_was_scored(lm_problem: Problem) -> None:
    method = GCG(search_width=16, draw=Draw.BEST)
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
    optimize(problem, START, method=GCG(search_width=32), budget=Budget(steps=3))
    assert seen == {*START.split(), "blue", "green", "star", "moon"}


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"gcg: search_width=0; expected at least 1"):
        GCG(search_width=0)
    with pytest.raises(OptionError, match=r"gcg: n_replace=True; expected at least 1"):
        GCG(n_replace=True)
    with pytest.raises(OptionError, match=r"gcg: draw 'worst'; expected one of uniform, best"):
        GCG(draw="worst")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"gcg: draw 'best' with n_replace=2; expected 1"):
        GCG(draw=Draw.BEST, n_replace=2)
