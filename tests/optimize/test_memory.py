"""The prompts that a schedule knows: the best of them, and what was written as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.optimize import Problem
from fuse_index.optimize.methods.memory import PromptMemory
from fuse_index.optimize.state import Scored
from fuse_index.words.ragged import Ragged

TEXTS = ("a red star", "the gorgeous circle", "a ring", "a small blue star above a circle")
TOTALS = (3.0, 1.0, np.inf, 2.0)


def scored(rows: list[tuple[int, ...]], totals: tuple[float, ...]) -> Scored:
    """A problem of one term with weight 1."""
    values = np.array(totals)
    return Scored(Ragged.from_lists(rows), values[:, None], values)


@pytest.fixture
def rows(lm_problem: Problem) -> list[tuple[int, ...]]:
    return [lm_problem.encode(text) for text in TEXTS]


@pytest.fixture
def memory(lm_problem: Problem, rows: list[tuple[int, ...]]) -> PromptMemory:
    found = PromptMemory(lm_problem)
    found.add(scored(rows, TOTALS))
    return found


def test_prompts_with_a_finite_loss_are_known(memory, rows):
    assert len(memory) == 3
    assert rows[0] in memory
    assert rows[2] not in memory
    memory.add(scored(rows[:1], (9.0,)))
    assert memory.states[rows[0]].total == 3.0, "a prompt has one loss"


def test_the_best_are_those_with_the_smallest_totals(memory, rows):
    assert memory.best(2) == [rows[1], rows[3]]
    assert memory.best(9) == [rows[1], rows[3], rows[0]]
    assert memory.best(9, since=2) == [rows[3]]
    assert [state.ids for state in memory.better_than(rows[3])] == [rows[1]]


def test_what_moves_made_was_not_written(memory, rows):
    memory.written = dict.fromkeys([rows[0], rows[3], rows[2]])
    assert memory.best_written(9) == [rows[3], rows[0]]
    assert memory.best_written(1) == [rows[3]]


def test_prompts_are_cut_into_words(memory, rows, lm_problem):
    found = memory.cut(rows)
    for text, words, ids in zip(TEXTS, found, rows, strict=True):
        assert [lm_problem.decode(word).strip() for word in words] == text.split()
        assert tuple(token for word in words for token in word) == ids
    assert memory.cut([]) == []


def test_only_what_is_new_is_fresh(memory, rows):
    assert memory.fresh([rows[2], rows[0], (), rows[2], (5,)]) == [rows[2], (5,)]


@pytest.mark.parametrize("written", [(), (0, 2)])
def test_tensors_carry_everything(memory, rows, lm_problem, written):
    memory.written = dict.fromkeys(rows[index] for index in written)
    other = PromptMemory(lm_problem)
    other.load_tensors({name: value.clone() for name, value in memory.tensors().items()})
    assert list(other.states.items()) == list(memory.states.items())
    assert list(other.written) == list(memory.written)
    assert all(isinstance(value, torch.Tensor) for value in other.tensors().values())
