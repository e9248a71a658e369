"""Initial prompts: drawn reproducibly, of allowed words that survive as text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fuse_index.errors import ModelError, OptionError, PromptError
from fuse_index.objectives import ClassifierLabel, Fluency
from fuse_index.optimize import Problem, Term, TokenFilter
from fuse_index.run import StartConfig, initial_prompts
from fuse_index.words.ragged import Ragged


@pytest.fixture(scope="module")
def problem(lm) -> Problem:
    return Problem(lm, [Term(Fluency(), lm)])


def test_texts_are_tokenized(problem):
    found = initial_prompts(problem, StartConfig(texts=("a red star", "the ring")), 0)
    assert [problem.decode(ids).strip() for ids in found] == ["a red star", "the ring"]


@pytest.mark.parametrize("draw", ["uniform", "model"])
def test_prompts_are_drawn_from_the_seed(problem, draw):
    start = StartConfig(length=6, count=5, draw=draw)
    found = initial_prompts(problem, start, 3)
    assert found == initial_prompts(problem, start, 3)
    assert found != initial_prompts(problem, start, 4)
    assert len(set(found)) == 5
    assert {len(ids) for ids in found} == {6}
    assert problem.words.survives(Ragged.from_lists(found)).all()
    assert problem.allowed[[i for ids in found for i in ids]].all()


def test_filters_hold_for_what_is_drawn(lm):
    some = Problem(lm, [Term(Fluency(), lm)], tokens=TokenFilter(allow_pattern=" (red|a|star)"))
    for draw in ("uniform", "model"):
        found = initial_prompts(some, StartConfig(length=4, count=3, draw=draw), 0)
        words = {word for ids in found for word in some.decode(ids).split()}
        assert words <= {"red", "a", "star"}


def test_the_source_writes_better_than_chance(problem):
    loss = problem.losses[0]
    means = {
        draw: loss.score(
            initial_prompts(problem, StartConfig(length=8, count=16, draw=draw), 0)
        ).mean()
        for draw in ("uniform", "model")
    }
    assert means["model"] < 0.6 * means["uniform"]


def test_it_goes_on_from_a_prefix(problem, lm):
    start = StartConfig(length=4, count=8, draw="model", temperature=0.3)
    prefix = "i like the"
    found = initial_prompts(problem, start, 0, prefix)
    alone = initial_prompts(problem, start, 0)
    loss = Fluency(prefix=prefix).prepare(lm)
    assert loss.score(found).mean() < loss.score(alone).mean()


def test_only_causal_models_write(sentiment):
    own = Problem(sentiment, [Term(ClassifierLabel(label="positive"), sentiment)])
    assert len(initial_prompts(own, StartConfig(length=3), 0)[0]) == 3
    with pytest.raises(ModelError, match=r"cannot write a prompt.*give an initial text"):
        initial_prompts(own, StartConfig(draw="model"), 0)


def test_nothing_that_survives(problem, monkeypatch):
    monkeypatch.setattr(
        type(problem.words), "survives", lambda _self, rows: torch.zeros(len(rows)).bool().numpy()
    )
    with pytest.raises(PromptError, match=r"no prompt of 3 tokens drawn from .* survives as text"):
        initial_prompts(problem, StartConfig(length=3), 0)


def test_mistakes():
    with pytest.raises(OptionError, match="expected one of uniform, model"):
        StartConfig(draw="best")
    with pytest.raises(OptionError, match="temperature=0"):
        replace(StartConfig(), temperature=0)
