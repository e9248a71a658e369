"""Penalties on the prompt itself: repeated tokens, and length."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, ClassVar

import torch

from fuse_index.common.options import Count, Natural, Width, options
from fuse_index.errors import OptionError
from fuse_index.objectives.base import Loss, Objective, register
from fuse_index.objectives.labels import content_rows

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch


@register
@options(kw_only=True)
class RepetitionPenalty(Objective):
    """Pairs of equal n-grams in the prompt's tokens, for each n-gram in it.

    With one-hot labels two tokens are equal to the degree of the product of their rows, which makes
    it differentiable; without, it has no gradient.

    Attributes:
        ngram: tokens of an n-gram.
    """

    ngram: Width = 1

    type: ClassVar[str] = "repetition"

    def _prepare(self, model: Model) -> Loss:
        return _RepetitionLoss(self, model)


class LengthUnit(str, Enum):
    """What a length is counted in."""

    TOKENS = "tokens"
    WORDS = "words"
    CHARACTERS = "characters"


@register
@options(kw_only=True)
class LengthPenalty(Objective):
    """How much longer than ``maximum`` or shorter than ``minimum`` the prompt is, over ``maximum``.

    Attributes:
        maximum: longest length that costs nothing.
        minimum: shortest length that costs nothing.
        unit: tokens of the model, words between spaces, or characters.
    """

    maximum: Count
    minimum: Natural = 0
    unit: LengthUnit = LengthUnit.TOKENS

    type: ClassVar[str] = "length"
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.minimum > self.maximum:
            raise OptionError(
                f"length: minimum {self.minimum} and maximum {self.maximum}",
                expected="minimum <= maximum",
            )

    def _prepare(self, model: Model) -> Loss:
        return _LengthLoss(self, model)


class _RepetitionLoss(Loss):
    runs_model: ClassVar[bool] = False
    uses_labels: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    objective: RepetitionPenalty

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        longest = batch.longest
        here = content_rows(batch, longest)
        if labels is None:
            ids = batch.ids[:, batch.start : batch.start + longest]
            equal = (ids[:, :, None] == ids[:, None, :]).float()
        else:
            equal = (labels @ labels.transpose(1, 2)).float()
        equal = equal * (here[:, :, None] & here[:, None, :])
        return repeated_ngrams(equal, batch.lengths, self.objective.ngram)


def repeated_ngrams(equal: Tensor, lengths: Tensor, ngram: int) -> Tensor:
    """Count pairs of equal n-grams.

    Args:
        equal: (b, C, C), to what degree two tokens are equal; 0 outside the content.
        lengths: (b,) tokens of each row.
        ngram: tokens of an n-gram.

    Returns:
        (b,), pairs over the number of n-grams of the row.
    """
    size = max(equal.shape[1] - ngram + 1, 0)
    match = equal.new_ones((len(equal), size, size))
    for shift in range(ngram if size else 0):
        match = match * equal[:, shift : shift + size, shift : shift + size]
    return match.triu(diagonal=1).sum(dim=(1, 2)) / (lengths - ngram + 1).clamp(min=1)


class _LengthLoss(Loss):
    runs_model: ClassVar[bool] = False
    objective: LengthPenalty

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        options = self.objective
        lengths = self._lengths(batch).float()
        over = (lengths - options.maximum).clamp(min=0)
        under = (options.minimum - lengths).clamp(min=0)
        return (over + under) / options.maximum

    def _lengths(self, batch: Batch) -> Tensor:
        if self.objective.unit is LengthUnit.TOKENS:
            return batch.lengths
        words = self.objective.unit is LengthUnit.WORDS
        counts = [len(text.split() if words else text.strip()) for text in self.texts(batch)]
        return torch.tensor(counts, device=batch.lengths.device)
