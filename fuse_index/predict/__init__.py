"""What a replacement does to a loss: targets, gradients, units, predictors, correction.

A *unit* is what a move replaces: a token, or a word with all its tokens. A *target* reads the
prompts for one model. A *predictor* ranks all units in a position by the predicted change of the
loss, and a *correction* adds what scored candidates taught. The optimizers, ``validate`` and the
queries of word indexes all call this package.
"""

from __future__ import annotations

from fuse_index.predict.correction import ResidualKriging
from fuse_index.predict.gradients import Gradients
from fuse_index.predict.predictor import unit_predictor
from fuse_index.predict.ranking import Predictor, Ranking, UnitPredictor
from fuse_index.predict.spent import Spent
from fuse_index.predict.target import PromptTerms, SourceWords, Target, TargetPrompts
from fuse_index.predict.units import TokenUnits, Unit, Units, WordUnits

__all__ = [
    "Gradients",
    "Predictor",
    "PromptTerms",
    "Ranking",
    "ResidualKriging",
    "SourceWords",
    "Spent",
    "Target",
    "TargetPrompts",
    "TokenUnits",
    "Unit",
    "UnitPredictor",
    "Units",
    "WordUnits",
    "unit_predictor",
]
