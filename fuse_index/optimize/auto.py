"""The method and the search for a problem, where none is given: the best that was measured.

The rules follow docs/benchmarks.md: whole words by layers find in a seventh of the passes what
random words find; the corrected mixture of embeddings and adapters comes next; over tokens, few
best-ranked candidates with correction and a beam of four.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fuse_index.errors import ModelError
from fuse_index.models.base import Model
from fuse_index.objectives.base import Loss
from fuse_index.optimize.budget import DEFAULT_STEPS, Budget
from fuse_index.optimize.methods.base import MethodOptions
from fuse_index.optimize.methods.gcg import GCG
from fuse_index.optimize.methods.random_search import RandomSearch
from fuse_index.optimize.methods.schedule import Moves
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.search import Beam, Greedy, SearchOptions
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.spent import Spent
from fuse_index.predict.states import states_cost
from fuse_index.predict.units import Unit

_WORTH = 16
"""Short forward passes that states may cost for each pass of the budget: they are kept, and serve
every later run with these words."""
_MOST_BYTES = 4 << 30
"""Memory of the states of one model, at most."""
_TOKENS = 16
"""Tokens of a prompt, about, where the budget counts operations."""
_STEP_PASSES = 32
"""Forward passes of a step, about, where the budget counts steps."""


@dataclass(frozen=True)
class Choice:
    """What is used for what was not given.

    Attributes:
        method: how candidates are proposed.
        search: which prompts are kept.
        reason: one line: what was chosen, and why.
    """

    method: MethodOptions
    search: SearchOptions
    reason: str


def choose(problem: Problem, budget: Budget) -> Choice:
    """Choose the method and the search that did best in the benchmarks.

    Args:
        problem: source, objectives, words, and adapters where there are any.
        budget: what may be spent.
    """
    if not _losses(problem):
        unit = Unit.WORD if problem.has_words else Unit.TOKEN
        reason = "random search: no objective has a gradient"
        return Choice(RandomSearch(unit=unit), Greedy(), reason)
    if not problem.has_words:
        method = GCG()
        return Choice(
            method,
            Beam(width=4),
            f"GCG over tokens, the {method.search_width} best of {method.positions} positions, "
            "corrected, with a beam of 4: the problem has no words",
        )
    predictor, why = choose_predictor(problem, budget)
    method = GCG(unit=Unit.WORD, predictor=predictor)
    if predictor is not Predictor.LAYERS:
        method = GCG(unit=Unit.WORD, predictor=predictor, search_width=32, positions=2)
    reason = (
        f"GCG over words by {predictor.value}, the {method.search_width} best of "
        f"{method.positions} positions, corrected: {why}"
    )
    return Choice(method, Greedy(), reason)


def choose_moves(problem: Problem, budget: Budget, *, drafts: bool = True) -> Choice:
    """Choose the moves that captioned best, with the predictor for the models at hand.

    Args:
        problem: its source is a causal language model.
        budget: what may be spent.
        drafts: whether the source writes drafts first; not where better beginnings are at hand.
    """
    predictor, why = choose_predictor(problem, budget)
    reason = f"moves under a schedule, words by {predictor.value}: {why}"
    if drafts:
        return Choice(Moves(predictor=predictor), Greedy(), reason)
    reason += "; without drafts, since it begins from retrieved sentences"
    return Choice(Moves(predictor=predictor, drafts=0), Greedy(), reason)


def choose_predictor(problem: Problem, budget: Budget) -> tuple[Predictor, str]:
    """Choose what ranks words, and say why.

    Args:
        problem: with words; with adapters where there are any.
        budget: what may be spent.
    """
    losses = _losses(problem)
    models = list(dict.fromkeys(loss.model for loss in losses))
    missing = [model for model in models if not problem.word_units.states_are_kept(model)]
    against = _against_layers(models) or _against_states(
        missing, len(problem.word_units), budget, losses
    )
    if not against:
        why = "worth their cost in this budget" if missing else "kept"
        return Predictor.LAYERS, f"the states of its words are {why}"
    other = [target for target in problem.targets if not target.same_tokens]
    adapted = bool(other) and all(target.adapter is not None for target in other)
    return (Predictor.MIXTURE if adapted else Predictor.EMBEDDING), against


def _losses(problem: Problem) -> list[Loss]:
    """The terms with a gradient and a weight."""
    return [x for x in problem.losses if x.objective.differentiable and x.objective.weight]


def _against_layers(models: list[Model]) -> str:
    """Which model has no layers that can be told apart; empty where all have."""
    for model in models:
        try:
            _ = model.layers
        except ModelError:
            return f"the layers of {model.name} cannot be told apart"
    return ""


def _against_states(models: list[Model], words: int, budget: Budget, losses: Sequence[Loss]) -> str:
    """Why the states of words in models are not computed; empty where they are."""
    passes = _passes(budget, losses)
    for model in models:
        size, cost = states_cost(model, words)
        if size > _MOST_BYTES:
            return f"states of {words:,} words in {model.name} take {size / 1e9:.1f} GB"
        if passes is None:
            return f"the states of words in {model.name} are not kept, and the time is limited"
        if cost > _WORTH * passes:
            return (
                f"states of {words:,} words take {cost:,} short passes of {model.name}, "
                f"the budget has {passes:,}"
            )
    return ""


def _passes(budget: Budget, losses: Sequence[Loss]) -> int | None:
    """Forward passes of a budget, about; None where only the time is limited."""
    if budget.forward_passes is not None:
        return budget.forward_passes
    if budget.flops is not None:
        spent = Spent()
        for loss in losses:
            spent.run_forward(loss, np.array([_TOKENS]))
        return int(min(budget.flops / spent.flops, sys.maxsize)) if spent.flops else None
    if budget.step_limit is None:
        return None
    return min(budget.step_limit, 100 * DEFAULT_STEPS) * _STEP_PASSES
