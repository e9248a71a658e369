"""AutoDAN: likelihoods, merits, and one position after the other, each prompt by itself."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuse_index.adapter import Adapter
from fuse_index.errors import ModelError, OptionError
from fuse_index.models import Model
from fuse_index.objectives import Fluency, ImageSimilarity, TextSimilarity
from fuse_index.optimize import (
    AutoDAN,
    Beam,
    Budget,
    Greedy,
    Problem,
    Run,
    RunOptions,
    SearchOptions,
    Spent,
    Stop,
    Term,
    TokenFilter,
    UniformCost,
    optimize,
)
from fuse_index.predict.likelihood import Likelihood
from fuse_index.words.ragged import Ragged

BEGINNINGS = ["the picture", "a small"]


def run_of(
    problem: Problem, options: AutoDAN, texts: list[str], search: SearchOptions | None = None
) -> Run:
    initial = [problem.encode(text) for text in texts]
    return Run(
        problem, initial, method=options, search=search or Beam(width=4), options=RunOptions()
    )


@pytest.fixture(scope="module")
def image_only(lm: Model, clip: Model, clip_adapter: Adapter, image_path: Path) -> Problem:
    """Like the picture, readable or not."""
    term = Term(ImageSimilarity(images=image_path), clip, clip_adapter)
    return Problem(lm, [term], tokens=TokenFilter(words_only=True))


# writing


@pytest.mark.parametrize("weight", [0.0, 1.0, 1e6])
def test_every_beam_gets_its_own_gradient_and_likelihood(
    image_only: Problem, weight: float
) -> None:
    # by the likelihood alone, by both, by the gradient alone
    options = AutoDAN(length=6, search_width=10, weight=weight, temperature=0, iterations=1)
    run = run_of(image_only, options, BEGINNINGS)
    states = run.search.select()
    proposals = run.method.propose(states)
    assert proposals is not None
    assert proposals.grown
    rows = proposals.prompts.to_lists()
    assert len(rows) == 10
    for state, mine in zip(states, (rows[:5], rows[5:]), strict=True):
        assert [tuple(row[:-1]) for row in mine] == [state.ids] * 5
        alone = run_of(image_only, options, [image_only.decode(state.ids).strip()])
        alone_rows = alone.method.propose(alone.search.select())
        assert alone_rows is not None
        # 5 of the 10 that the same prompt is given where no other beam is near
        assert mine == alone_rows.prompts.to_lists()[:5]
    assert {row[-1] for row in rows[:5]} != {row[-1] for row in rows[5:]}


def test_the_best_by_the_gradient_are_those_of_the_gradient(image_only: Problem) -> None:
    options = AutoDAN(length=6, search_width=5, weight=1e6, temperature=0, iterations=1)
    run = run_of(image_only, options, BEGINNINGS[:1])
    (state,) = run.search.select()
    expected = Likelihood(image_only, Spent(), "autodan").next_tokens([state.ids])[0]
    expected[~image_only.allowed] = -torch.inf
    provisional = Ragged.from_lists([[*state.ids, int(expected.argmax())]])
    scores = run.gradients.tokens(provisional, run.weights)[0, -1]
    scores[~image_only.allowed] = torch.inf
    proposals = run.method.propose([state])
    assert proposals is not None
    ranked = [(*state.ids, token) for token in scores.argsort().tolist()]
    survive = image_only.words.survives(Ragged.from_lists(ranked))
    wanted = [list(row) for row, good in zip(ranked, survive, strict=True) if good][:5]
    assert sorted(proposals.prompts.to_lists()) == sorted(wanted)


def test_iterations_end_where_the_best_stays(image_only: Problem) -> None:
    found = []
    for iterations in (1, 3, 50):
        options = AutoDAN(length=6, search_width=3, temperature=0, iterations=iterations)
        run = run_of(image_only, options, BEGINNINGS[:1])
        proposals = run.method.propose(run.search.select())
        assert proposals is not None
        totals = run.context.totals(proposals.prompts)
        found.append((run.spent.gradients, len(totals), float(totals.min())))
    gradients, proposed, best = zip(*found, strict=True)
    assert gradients[0] == 1
    assert 2 <= gradients[1] <= 3
    assert gradients[1] <= gradients[2] < 15  # far fewer than it was allowed
    assert proposed == tuple(3 * count for count in gradients)
    assert best[0] >= best[1] >= best[2]
    assert best[0] > best[2]


@pytest.mark.parametrize("search", [Greedy(), Beam(width=3), UniformCost(size=8)])
def test_it_grows_to_its_length(problem: Problem, search: SearchOptions) -> None:
    options = AutoDAN(length=7, search_width=12)
    result = optimize(problem, BEGINNINGS, method=options, search=search, budget=Budget(steps=60))
    assert result.stop is Stop.FINISHED
    lengths = [len(point.ids) for point in result.trajectory]
    assert lengths[-1] == 7
    if not isinstance(search, UniformCost):
        assert lengths == [2, 3, 4, 5, 6, 7]
    first = [tuple(problem.encode(text)) for text in BEGINNINGS]
    assert all(point.ids[:2] in first for point in result.trajectory)
    assert all(problem.allowed[list(point.ids[2:])].all() for point in result.trajectory)


def test_passes_are_counted(problem: Problem) -> None:
    options = AutoDAN(length=6, search_width=12, iterations=2)
    run = run_of(problem, options, BEGINNINGS, Beam(width=2))
    scored = run.spent.scored
    states = run.search.select()
    proposals = run.method.propose(states)
    assert proposals is not None
    spent = run.spent
    assert spent.predicted == 2
    assert 2 <= spent.gradients <= 4  # a prompt whose first iteration finds nothing has no second
    assert spent.scored - scored == len(proposals.prompts)
    assert spent.forward_passes == 2 + 3 * spent.gradients + spent.scored


def test_the_budget_limits_a_step(problem: Problem) -> None:
    budget = Budget(forward_passes=40)
    options = AutoDAN(length=12, search_width=16, iterations=4)
    result = optimize(problem, BEGINNINGS[:1], method=options, budget=budget)
    assert result.stop is Stop.FORWARD_PASSES
    # at most the first iteration of the last step, and a gradient, beyond it
    assert 40 <= result.spent["forward_passes"] < 40 + 16 + 3


def test_without_the_gradient_no_adapter_is_needed(
    lm: Model, clip: Model, image_path: Path
) -> None:
    terms = [Term(ImageSimilarity(images=image_path), clip)]
    problem = Problem(lm, terms, tokens=TokenFilter(words_only=True))
    options = AutoDAN(length=6, search_width=12, weight=0)
    result = optimize(problem, BEGINNINGS[0], method=options)
    assert result.spent["gradients"] == 0
    assert result.total < result.trajectory[0].total
    with pytest.raises(OptionError, match="no adapter from"):
        optimize(problem, BEGINNINGS[0], method=AutoDAN(length=6))


def test_a_sweep_revises_one_token_after_the_other(problem: Problem) -> None:
    options = AutoDAN(length=7, search_width=24, sweeps=2)
    result = optimize(problem, BEGINNINGS[0], method=options, budget=Budget(steps=100))
    assert result.stop is Stop.FINISHED
    assert result.spent["steps"] == 5 + 2 * 7
    revised = result.trajectory[5:]
    for number, (before, after) in enumerate(pairwise(revised)):
        changed = np.flatnonzero(np.array(before.ids) != np.array(after.ids))
        assert set(changed.tolist()) <= {number % 7}
        assert after.total <= before.total
    assert revised[-1].total < revised[0].total


def test_the_less_the_gradient_weighs_the_better_it_reads(lm: Model, image_only: Problem) -> None:
    fluency = Fluency().prepare(lm)
    steps = 7

    def written(weight: float) -> tuple[int, ...]:
        options = AutoDAN(length=9, search_width=4, weight=weight)
        found = optimize(image_only, BEGINNINGS[0], method=options, budget=Budget(steps=steps))
        assert len(found.trajectory) == steps + 1
        assert found.total < found.trajectory[0].total
        return found.trajectory[-1].ids

    rows = [list(written(weight)) for weight in (0.5, 50.0)]
    assert [len(row) for row in rows] == [9, 9]
    losses = fluency.score(rows)
    assert losses[0] < losses[1] - 0.5


# words


@pytest.fixture(scope="module")
def caption(lm: Model, clip: Model, clip_adapter: Adapter, image_path: Path) -> Problem:
    """Fluent, and like the picture."""
    likeness = Term(ImageSimilarity(images=image_path, weight=14.0), clip, clip_adapter)
    return Problem(lm, [Term(Fluency(include_end=True), lm), likeness])


def words(**given: Any) -> AutoDAN:
    return AutoDAN(unit="word", **{"predictor": "embedding", **given})


def test_without_the_gradient_the_likeliest_words_are_put_behind(caption: Problem) -> None:
    run = run_of(caption, words(length=4, search_width=5, weight=0.0), ["a red"], Greedy())
    (state,) = run.search.select()
    proposals = run.method.propose([state])
    assert proposals is not None
    assert proposals.grown
    units = caption.word_units
    likely = Likelihood(caption, Spent(), "autodan").next_tokens([state.ids])[0, units.firsts]
    best = [(*state.ids, *units.source[word].tolist()) for word in likely.topk(5).indices.tolist()]
    assert sorted(tuple(row) for row in proposals.prompts.to_lists()) == sorted(best)


def test_writing_ends_at_its_length_or_where_it_has_become_worse(caption: Problem) -> None:
    whole = optimize(
        caption,
        "a red",
        method=words(length=5, search_width=16),
        search=Beam(width=2),
        budget=Budget(steps=20),
    )
    assert (whole.stop, whole.spent["steps"]) == (Stop.FINISHED, 3)
    assert [len(caption.decode(p.ids).split()) for p in whole.trajectory] == [2, 3, 4, 5]
    cut = optimize(
        caption,
        "a red",
        method=words(length=22, search_width=16, margin=0.0),
        search=Beam(width=2),
        budget=Budget(steps=20),
    )
    assert cut.stop is Stop.FINISHED
    totals = [point.total for point in cut.trajectory]
    assert totals[-1] > min(totals)
    assert all(before >= after for before, after in pairwise(totals[:-1]))


def test_guided_words_find_a_caption_nearer_to_the_picture(caption: Problem) -> None:
    def cosine(weight: float) -> float:
        found = optimize(
            caption,
            ["a", "the", "one"],
            method=words(length=9, search_width=24, weight=weight),
            search=Beam(width=3),
            budget=Budget(steps=8),
        )
        return 1 - found.losses["image"]

    assert cosine(2.0) > cosine(0.0)


def test_the_first_gradient_of_a_word_is_taken_at_the_mean_word(caption: Problem) -> None:
    """Then it is taken again at the best of them, and the predictions are added."""
    options = words(length=4, search_width=3, iterations=3, temperature=0.0)
    run = run_of(caption, options, ["a small"], Greedy())
    (state,) = run.search.select()
    proposals = run.method.propose([state])
    assert proposals is not None
    assert 2 <= run.spent.gradients <= 3
    assert len(proposals.prompts) == 3 * run.spent.gradients
    found = run.method._merit.behind([state.ids])[0]
    survive = caption.words.survives(proposals.prompts)
    assert survive.all()
    first = [(*state.ids, *caption.word_units.source[int(found.argmax())].tolist())]
    assert first[0] in [tuple(row) for row in proposals.prompts.to_lists()[:3]]


def test_a_sweep_revises_one_word_after_the_other(caption: Problem) -> None:
    options = words(length=4, search_width=12, sweeps=1)
    result = optimize(caption, "a small star", method=options, budget=Budget(steps=30))
    assert (result.stop, result.spent["steps"]) == (Stop.FINISHED, 1 + 4)
    texts = [caption.decode(point.ids).split() for point in result.trajectory[1:]]
    for number, (before, after) in enumerate(pairwise(texts)):
        changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert set(changed) <= {number}
    totals = [point.total for point in result.trajectory[1:]]
    assert totals == sorted(totals, reverse=True)


def test_only_some_predictors_of_words_need_an_adapter(
    lm: Model, clip: Model, image_path: Path
) -> None:
    term = Term(ImageSimilarity(images=image_path), clip)
    problem = Problem(lm, [term], words=["red", "star", "circle"])
    for predictor in ("embedding", "layers"):
        method = words(length=3, predictor=predictor)
        optimize(problem, "a red", method=method, budget=Budget(steps=1))
    with pytest.raises(OptionError, match="no adapter"):
        optimize(problem, "a red", method=words(length=3, predictor="mixture"))


# bad input


def test_the_source_must_write(clip: Model) -> None:
    problem = Problem(clip, [Term(TextSimilarity(texts="a red star"), clip)])
    with pytest.raises(
        ModelError,
        match=r"autodan: .*clip of kind 'clip' as the source; expected a causal language model",
    ):
        optimize(problem, "a blue moon", method=AutoDAN())


def test_initial_prompts_must_leave_room(problem: Problem) -> None:
    with pytest.raises(
        OptionError, match=r"autodan: an initial prompt of 2 tokens with length=1; expected"
    ):
        optimize(problem, BEGINNINGS[0], method=AutoDAN(length=1))


def test_bad_options(caption: Problem) -> None:
    with pytest.raises(OptionError, match=r"autodan: length=0; expected at least 1"):
        AutoDAN(length=0)
    with pytest.raises(OptionError, match=r"autodan: temperature=-1; expected at least 0"):
        AutoDAN(temperature=-1)
    with pytest.raises(OptionError, match=r"autodan: weight=-0.5; expected at least 0"):
        AutoDAN(weight=-0.5)
    with pytest.raises(OptionError, match=r"autodan: iterations=0; expected at least 1"):
        AutoDAN(iterations=0)
    with pytest.raises(OptionError, match=r"autodan: margin=-1.0; expected at least 0"):
        AutoDAN(margin=-1.0)
    with pytest.raises(OptionError, match=r"autodan: predictor 'bus'; expected one of embedding"):
        words(predictor="bus")
    with pytest.raises(OptionError, match=r"predictor 'mixture' with unit 'token'"):
        AutoDAN(predictor="mixture")
    with pytest.raises(
        OptionError, match=r"autodan: an initial prompt of 3 words with length=2; expected"
    ):
        optimize(caption, "a gorgeous star", method=words(length=2))
