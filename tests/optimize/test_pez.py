"""PEZ: its soft prompts, their projections and their checkpoints."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.models import Model
from fuse_index.models.batch import Batch
from fuse_index.objectives import CustomObjective, ImageSimilarity
from fuse_index.optimize import PEZ, Budget, Greedy, Problem, Run, RunOptions, Term, optimize
from fuse_index.optimize.methods.base import Method
from fuse_index.optimize.spaces import Distance, NearestTokens
from fuse_index.optimize.state import State
from tests.demo_models import BASE, START

WANTED = "a circle contains the small picture on a circle"
"""As many tokens as the start."""


@pytest.fixture
def bowl(lm: Model, lm_problem: Problem) -> Problem:
    """A quadratic loss, whose minimum is the embeddings of a text."""
    target = lm.table()[list(lm_problem.encode(WANTED))]

    def distance(model: Model, embeds: Tensor, batch: Batch) -> Tensor:
        apart = (embeds[:, batch.start :] - target[: int(batch.lengths.max())]).square().sum(dim=2)
        return (apart * batch.content[:, batch.start :]).sum(dim=1)

    return Problem(lm, [Term(CustomObjective(function=distance), lm)], tokens=lm_problem.tokens)


def run_of(problem: Problem, options: PEZ, texts: list[str], seed: int = 0) -> Run:
    initial = [problem.encode(text) for text in texts]
    return Run(problem, initial, method=options, search=Greedy(), options=RunOptions(seed))


def walk(method: Method, states: list[State], steps: int) -> list[list[list[int]]]:
    found = []
    for _ in range(steps):
        proposals = method.propose(states)
        assert proposals is not None
        found.append(proposals.prompts.to_lists())
    return found


def test_it_slides_down_a_bowl(bowl: Problem) -> None:
    result = optimize(bowl, START, method=PEZ(weight_decay=0), budget=Budget(steps=120))
    totals = [point.total for point in result.trajectory]
    assert all(a >= b for a, b in pairwise(totals))
    assert result.text.strip() == WANTED
    assert result.total == pytest.approx(0, abs=1e-6)


def test_it_goes_on_where_the_search_stays(bowl: Problem) -> None:
    run = run_of(bowl, PEZ(learning_rate=0.05), [START])
    states = run.search.select()
    found = [row for step in walk(run.method, states, 100) for row in step]
    assert len({tuple(row) for row in found}) >= 3
    # further from the start with time, although the search never moved
    apart = [sum(a != b for a, b in zip(row, states[0].ids, strict=True)) for row in found]
    assert apart == sorted(apart)
    assert apart[-1] > apart[0]


def test_one_step_is_that_of_adamw(bowl: Problem) -> None:
    run = run_of(bowl, PEZ(learning_rate=0.5, weight_decay=0.1), [START])
    unit = NearestTokens(bowl, Distance.COSINE).scale
    start, wanted = (bowl.source.table()[list(bowl.encode(text))] for text in (START, WANTED))
    gradient = 2 * (start - wanted)
    run.method.propose(run.search.select())
    # the first step of Adam is the sign of the gradient, and the decay is decoupled
    moved = start / unit * (1 - 0.5 * 0.1) - 0.5 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(run.method.tensors()["soft"][0], moved, rtol=1e-5, atol=1e-5)


def test_relative_rates_are_rates_times_the_tables_scale(bowl: Problem) -> None:
    unit = NearestTokens(bowl, Distance.COSINE).scale
    softs = []
    for options in (
        PEZ(learning_rate=0.3, weight_decay=0),
        PEZ(learning_rate=0.3 * unit, weight_decay=0, relative=False),
    ):
        run = run_of(bowl, options, [START])
        walk(run.method, run.search.select(), 5)
        softs.append(run.method.tensors()["soft"])
    torch.testing.assert_close(softs[0] * unit, softs[1], rtol=1e-4, atol=1e-6)


def test_proposals_are_the_nearest_allowed_tokens(bowl: Problem) -> None:
    run = run_of(bowl, PEZ(learning_rate=0.05), [START, "a small circle"])
    table = torch.nn.functional.normalize(bowl.source.table().double(), dim=1)
    table[~torch.from_numpy(bowl.allowed)] = 0
    seen = 0
    for _ in range(60):
        proposals = run.method.propose(run.search.select())
        assert proposals is not None
        soft = run.method.tensors()["soft"].double()
        nearest = (torch.nn.functional.normalize(soft, dim=2) @ table.T).argmax(dim=2)
        expected = [nearest[0].tolist(), nearest[1, :3].tolist()]
        assert all(row in expected for row in proposals.prompts.to_lists())
        seen += len(proposals.prompts)
    assert seen > 5


def test_gradients_are_taken_where_a_projection_changed(bowl: Problem) -> None:
    run = run_of(bowl, PEZ(), [START])
    changed = sum(len(step) for step in walk(run.method, run.search.select(), 30))
    last = len(run.method.propose(run.search.select()).prompts)  # type: ignore[union-attr]
    assert run.spent.gradients == 1 + changed
    assert last in (0, 1)


def test_restarts_begin_elsewhere_and_by_the_seed(bowl: Problem) -> None:
    softs = [
        run_of(bowl, PEZ(restarts=3), [START, "a small circle"], seed).method.tensors()
        for seed in (0, 0, 1)
    ]
    assert softs[0]["soft"].shape == (5, 9, bowl.source.width)
    assert [(row >= 0).sum().item() for row in softs[0]["ids"]] == [9, 3, 9, 3, 9]
    assert torch.equal(softs[0]["ids"], softs[1]["ids"])
    assert not torch.equal(softs[0]["ids"], softs[2]["ids"])
    assert torch.equal(softs[0]["ids"][:2], softs[2]["ids"][:2])
    assert bowl.allowed[softs[0]["ids"][2].numpy()].all()


def test_tensors_carry_everything(bowl: Problem) -> None:
    whole = run_of(bowl, PEZ(restarts=1), [START])
    states = whole.search.select()
    walk(whole.method, states, 7)
    resumed = run_of(bowl, PEZ(restarts=1), [START], seed=5)
    resumed.method.load_tensors({k: v.clone() for k, v in whole.method.tensors().items()})
    assert walk(whole.method, states, 20) == walk(resumed.method, states, 20)
    for name, value in whole.method.tensors().items():
        assert torch.equal(value, resumed.method.tensors()[name]), name


# words


def test_it_slides_down_a_bowl_of_words(lm: Model) -> None:
    wanted = "a square contains the small picture of the right"
    texts = sorted({*START.split(), *wanted.split(), "circle", "triangle", "star", "large"})
    target = lm.table()[list(Problem(lm, [_term(lm, lm.table()[:1])]).encode(wanted))]
    problem = Problem(lm, [_term(lm, target)], words=texts)
    method = PEZ(unit="word", weight_decay=0)
    result = optimize(problem, START, method=method, budget=Budget(steps=150))
    totals = [point.total for point in result.trajectory]
    assert all(a >= b for a, b in pairwise(totals))
    assert result.total < 0.3 * totals[0]
    assert set(result.text.split()) <= set(texts)


def _term(lm: Model, target: Tensor) -> Term:
    def distance(model: Model, embeds: Tensor, batch: Batch) -> Tensor:
        own = embeds[:, batch.start :]
        length = min(own.shape[1], len(target))
        apart = (own[:, :length] - target[:length]).square().sum(dim=2)
        return (apart * batch.content[:, batch.start :][:, :length]).sum(dim=1)

    return Term(CustomObjective(function=distance), lm)


@pytest.mark.parametrize("predictor", ["embedding", "adapter", "mixture"])
def test_words_stay_whole(problem: Problem, predictor: str) -> None:
    method = PEZ(unit="word", predictor=predictor, restarts=1, learning_rate=1.0)
    result = optimize(problem, START, method=method, budget=Budget(steps=6))
    assert sum(point.candidates for point in result.trajectory) > 1
    assert len(result.text.split()) == len(START.split())
    assert set(result.text.split()) <= set(problem.word_units.words)


def test_a_mixture_makes_soft_prompts_of_both_kinds(problem: Problem) -> None:
    initial = [problem.encode(START)]
    kinds = ("embedding", "adapter", "mixture")
    single, adapted, both = (
        Run(
            problem,
            initial,
            method=PEZ(unit="word", predictor=kind, learning_rate=1.0),
            search=Greedy(),
            options=RunOptions(),
        )
        for kind in kinds
    )
    rows = [walk(run.method, run.search.select(), 4) for run in (single, adapted, both)]
    assert rows[2] == [[*one, *other] for one, other in zip(rows[0], rows[1], strict=True)]


def test_words_in_their_own_models_need_no_adapter(
    lm: Model, clip: Model, image_path: Path, clip_only: Problem
) -> None:
    words = clip_only.word_units.words
    problem = Problem(lm, [Term(ImageSimilarity(images=image_path), clip)], words=words)
    result = optimize(problem, BASE, method=PEZ(unit="word"), budget=Budget(steps=3))
    assert result.spent["gradients"] >= 1
    with pytest.raises(OptionError, match="no adapter from"):
        optimize(problem, BASE, method=PEZ(unit="word", predictor="adapter"))


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"pez: learning_rate=0; expected more than 0"):
        PEZ(learning_rate=0)
    with pytest.raises(OptionError, match=r"pez: weight_decay=-1; expected at least 0"):
        PEZ(weight_decay=-1)
    with pytest.raises(OptionError, match=r"pez: restarts=-1; expected at least 0"):
        PEZ(restarts=-1)
    with pytest.raises(OptionError, match=r"pez: predictor 'layers'; expected embedding, adapter"):
        PEZ(unit="word", predictor="layers")
    with pytest.raises(OptionError, match=r"predictor 'mixture' with unit 'token'"):
        PEZ(predictor="mixture")
