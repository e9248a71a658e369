"""What each word of a prompt is worth to each model, by leaving it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fuse_index.objectives import Fluency, TokenReduction
from fuse_index.optimize import Problem, Term
from fuse_index.optimize.scoring import Scorer
from fuse_index.predict.spent import Spent
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_WORDS = 60
"""Words of a prompt that is taken apart; a longer one would be another run."""


@dataclass(frozen=True)
class WordEffects:
    """What the words of a prompt are worth.

    Attributes:
        words: of the prompt, cut at white space.
        terms: names of the losses.
        changes: for every word, for every term: weight times (loss without the word less loss with
            it). Above 0 the word lowers the loss. None where no prompt is left.
        surprisal: for every word, ``- log p(word | words before)`` under the source model, in nats;
            None for a first word before which nothing stands. Empty where no term is its fluency.
    """

    words: tuple[str, ...]
    terms: tuple[str, ...]
    changes: tuple[tuple[float | None, ...], ...]
    surprisal: tuple[float | None, ...]


def word_effects(problem: Problem, text: str) -> WordEffects | None:
    """Leave one word after another out of a prompt, and score what is left.

    Words interact: the effects do not add up to the loss.

    Args:
        problem: the losses.
        text: the prompt, as :meth:`fuse_index.optimize.Problem.decode` gives it.

    Returns:
        None for a prompt of no word, or of more than :data:`MOST_WORDS`.

    Raises:
        LossError: a loss is not finite.
    """
    words = text.split()
    if not 0 < len(words) <= MOST_WORDS:
        return None
    around = text[: len(text) - len(text.lstrip())]
    shorter = [around + " ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    rows = [problem.encode(one) if one.strip() else () for one in (text, *shorter)]
    losses = Scorer(problem, Spent()).score(Ragged.from_lists([list(row) for row in rows]))
    totals = problem.items.combined(losses, problem.items.everything())
    changes = problem.weights * (totals[1:] - totals[0])
    return WordEffects(
        tuple(words),
        tuple(problem.names),
        tuple(tuple(_finite(row)) for row in changes),
        _surprisal(problem, around, words),
    )


def _surprisal(problem: Problem, around: str, words: Sequence[str]) -> tuple[float | None, ...]:
    """Differences of the log-likelihoods of the prompt's beginnings."""
    own = (
        term.objective
        for term in problem.terms
        if isinstance(term.objective, Fluency) and term.model is problem.source
    )
    objective = next(own, None)
    if objective is None:
        return ()
    plain = replace(
        objective, reduction=TokenReduction.SUM, include_suffix=False, include_end=False
    )
    source = Problem(problem.source, [Term(plain, problem.source)])
    begun = [around + " ".join(words[: i + 1]) for i in range(len(words))]
    rows = Ragged.from_lists([list(source.encode(text)) for text in begun])
    sums = Scorer(source, Spent()).score(rows)[:, 0]
    found = _finite(np.diff(sums, prepend=0.0))
    first = bool(problem.source.frame.head or source.losses[0].surroundings.text_before)
    return tuple(found if first else [None, *found[1:]])


def _finite(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
