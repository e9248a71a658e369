"""Losses of candidates: values, memory, order, limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.errors import LossError, ModelError
from fuse_index.objectives import CustomObjective, CustomTextObjective, Fluency
from fuse_index.optimize import Problem, Spent, Term
from fuse_index.optimize.scoring import Scorer, distinct_rows
from fuse_index.words.ragged import Ragged

BASE = "the picture contains a small circle on the left"
TEXTS = (
    BASE,
    "the picture contains a small square on the left",
    "a picture contains a small circle on the left",
    "a lovely triangle",
    BASE,
)


def rows_of(problem: Problem, texts=TEXTS) -> Ragged:
    return Ragged.from_lists([problem.encode(text) for text in texts])


def one_by_one(problem: Problem, rows: Ragged) -> np.ndarray:
    """Every model reads the decoded text of every row, alone."""
    values = []
    for row in rows:
        text = problem.decode(row.tolist())
        contents = [
            row.tolist() if term.model is problem.source else term.model.words.encode_text(text)
            for term in problem.terms
        ]
        values.append(
            [
                float(loss.score([ids])[0])
                for loss, ids in zip(problem.losses, contents, strict=True)
            ]
        )
    return np.array(values)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("with_base", [False, True])
def test_losses_are_those_of_every_text_alone(problem, batch_size, with_base):
    scorer = Scorer(problem, Spent(), batch_size=batch_size)
    rows = rows_of(problem)
    base = problem.encode(BASE) if with_base else None
    np.testing.assert_allclose(
        scorer.score(rows, base), one_by_one(problem, rows), rtol=1e-4, atol=1e-5
    )


def test_a_prompt_is_scored_once_and_remembered(lm):
    seen: list[str] = []

    def count(texts):
        seen.extend(texts)
        return [float(len(text)) for text in texts]

    problem = Problem(lm, [Term(CustomTextObjective(function=count), lm)])
    spent = Spent()
    scorer = Scorer(problem, spent)
    first = scorer.score(rows_of(problem))
    assert len(seen) == len(set(seen)) == 4
    assert (spent.scored, spent.recalled) == (4, 1)
    again = scorer.score(rows_of(problem))
    assert len(seen) == 4
    assert (spent.scored, spent.recalled) == (4, 6)
    np.testing.assert_array_equal(first, again)


def test_memory_forgets_the_oldest(lm_problem):
    scorer = Scorer(lm_problem, Spent(), remember=2)
    rows = rows_of(lm_problem, TEXTS[:4])
    scorer.score(rows)
    assert scorer.remembers(rows).sum() == 2


def test_memory_can_be_restored(lm_problem):
    scorer = Scorer(lm_problem, Spent())
    rows = rows_of(lm_problem)
    expected = scorer.score(rows)
    other = Scorer(lm_problem, Spent())
    other.restore(*scorer.memory())
    np.testing.assert_array_equal(other.score(rows), expected)
    assert other.spent.scored == 0


def test_prompts_without_room_cost_nothing_and_are_infinite(lm):
    problem = Problem(lm, [Term(Fluency(), lm)])
    spent = Spent()
    long = list(problem.encode("circle")) * (lm.positions + 1)
    rows = Ragged.from_lists([long, problem.encode(BASE)])
    losses = Scorer(problem, spent).score(rows)[:, 0]
    assert np.isinf(losses[0])
    assert np.isfinite(losses[1])
    assert spent.scored == 1


def test_nan_names_the_objective_and_the_prompt(lm):
    def poisoned(model, embeds, batch):
        bad = batch.lengths == min(batch.lengths)
        return torch.where(bad, float("nan"), 1.0)

    problem = Problem(lm, [Term(CustomObjective(function=poisoned), lm)])
    with pytest.raises(LossError, match=r"custom\(.*\) is nan for the prompt .*a lovely"):
        Scorer(problem, Spent()).score(rows_of(problem))


def test_a_prefix_that_fills_the_positions_is_refused_at_once(lm):
    objective = Fluency(prefix="circle " * lm.positions)
    with pytest.raises(ModelError, match=r"fluency.*of the prefix.*shorten the prefix"):
        Problem(lm, [Term(objective, lm)])


def test_distinct_rows_keep_the_first_and_leave_out_the_given():
    rows = Ragged.from_lists([[1, 2], [3], [1, 2], [12], [3, 4], [3]])
    assert distinct_rows(rows).tolist() == [0, 1, 3, 4]
    assert distinct_rows(rows, but=[(3,), (9,)]).tolist() == [0, 3, 4]
