"""How well the adapters map words that they were not fitted on."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GroupQuality:
    """Quality of one group's adapter on its held-out words.

    Attributes:
        words: words the adapter was fitted on.
        held_out: words it was measured on; the figures are ``None`` where there are none.
        relative_error: ``||X * G - Y|| / ||Y||`` over the target tokens of the held-out words.
        cosine: mean over those tokens of the cosine between predicted and true embedding.
        baseline_error: relative error of predicting the group's mean, position by position.
        baseline_cosine: cosine of predicting the group's mean.
    """

    words: int
    held_out: int
    relative_error: float | None
    cosine: float | None
    baseline_error: float | None
    baseline_cosine: float | None


@dataclass(frozen=True)
class QualityReport:
    """Quality by group; ``"fallback"`` is measured on every held-out word."""

    groups: dict[str, GroupQuality]

    def to_dict(self) -> dict[str, dict[str, float | int | None]]:
        """Return plain numbers by group, ready for JSON."""
        return {name: asdict(quality) for name, quality in self.groups.items()}


class ErrorMeter:
    """Accumulates relative error and cosine between predicted and true rows."""

    def __init__(self) -> None:
        self._error = self._energy = self._cosine = 0.0
        self._rows = 0

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Add rows ``(*, width)``."""
        self._error += float((predicted - truth).double().square().sum())
        self._energy += float(truth.double().square().sum())
        cosine = torch.nn.functional.cosine_similarity(predicted, truth, dim=-1)
        self._cosine += float(cosine.double().sum())
        self._rows += cosine.numel()

    def result(self) -> tuple[float | None, float | None]:
        """Return relative error and mean cosine, ``None`` where nothing was added."""
        if self._rows == 0:
            return None, None
        error = (self._error / self._energy) ** 0.5 if self._energy > 0 else None
        return error, self._cosine / self._rows
