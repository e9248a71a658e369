"""What each word is worth: the losses without it, and its surprisal."""

from __future__ import annotations

import numpy as np
import pytest

from fuse_index.objectives import Fluency, TokenReduction
from fuse_index.optimize import Problem, Term
from fuse_index.optimize.scoring import Scorer
from fuse_index.predict.spent import Spent
from fuse_index.report import word_effects
from fuse_index.report.words import MOST_WORDS
from fuse_index.words.ragged import Ragged
from tests.demo_models import BASE


def losses(problem: Problem, *texts: str) -> np.ndarray:
    rows = Ragged.from_lists([list(problem.encode(text)) for text in texts])
    return Scorer(problem, Spent()).score(rows)


def test_a_word_is_worth_what_the_losses_rise_without_it(three_models):
    text = three_models.decode(three_models.encode(BASE))
    found = word_effects(three_models, text)
    assert found is not None
    assert list(found.words) == BASE.split()
    assert found.terms == tuple(three_models.names)
    without = BASE.replace(" gorgeous", "")
    whole, less = losses(three_models, BASE, without)
    expected = three_models.weights * (less - whole)
    np.testing.assert_allclose(found.changes[found.words.index("gorgeous")], expected, atol=1e-5)


def test_surprisals_add_up_to_the_likelihood_of_the_prompt(lm):
    problem = Problem(lm, [Term(Fluency(include_end=True), lm)])
    found = word_effects(problem, problem.decode(problem.encode(BASE)))
    assert found is not None
    assert None not in found.surprisal
    alone = Problem(lm, [Term(Fluency(reduction=TokenReduction.SUM), lm)])
    assert sum(found.surprisal) == pytest.approx(float(losses(alone, BASE)[0, 0]), rel=1e-5)


def test_one_word_none_and_too_many(lm, clip_only):
    one = word_effects(Problem(lm, [Term(Fluency(), lm)]), " star")
    assert one is not None
    assert one.changes == ((None,),)
    assert len(one.surprisal) == 1
    assert word_effects(clip_only, " ") is None
    assert word_effects(clip_only, " a" * (MOST_WORDS + 1)) is None
    found = word_effects(clip_only, " a red star")
    assert found is not None
    assert found.surprisal == ()
