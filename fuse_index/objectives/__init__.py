"""Objectives: what is wanted of a prompt, as losses of one model on every candidate."""

from fuse_index.objectives.base import (
    OBJECTIVES,
    Loss,
    Objective,
    objective_from_json,
    require_finite,
)
from fuse_index.objectives.continuation import (
    ContinuationDivergence,
    ContinuationLoss,
    TargetContinuation,
)
from fuse_index.objectives.custom import CustomObjective, CustomTextObjective
from fuse_index.objectives.features import ClassifierLabel, ImageSimilarity, TextSimilarity
from fuse_index.objectives.items import Combine, ItemObjective, PlacedItem
from fuse_index.objectives.labels import LabelSpace, one_hot_content
from fuse_index.objectives.language import (
    EnergyLogProbability,
    Fluency,
    TokenDivergence,
    TokenReduction,
)
from fuse_index.objectives.penalties import LengthPenalty, LengthUnit, RepetitionPenalty
from fuse_index.objectives.weights import balanced_weights

__all__ = [
    "OBJECTIVES",
    "ClassifierLabel",
    "Combine",
    "ContinuationDivergence",
    "ContinuationLoss",
    "CustomObjective",
    "CustomTextObjective",
    "EnergyLogProbability",
    "Fluency",
    "ImageSimilarity",
    "ItemObjective",
    "LabelSpace",
    "LengthPenalty",
    "LengthUnit",
    "Loss",
    "Objective",
    "PlacedItem",
    "RepetitionPenalty",
    "TargetContinuation",
    "TextSimilarity",
    "TokenDivergence",
    "TokenReduction",
    "balanced_weights",
    "objective_from_json",
    "one_hot_content",
    "require_finite",
]
