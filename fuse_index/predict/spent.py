"""What predictions and scores have cost: every method counts in the same way."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

GRADIENT_COST = 2
"""Forward passes that the gradient of one prompt counts as: the models are frozen, so its backward
pass computes no gradient of weights and costs about as much as the forward pass before it."""

_COUNTS = ("steps", "scored", "gradients", "predicted", "recalled", "draft")


@dataclass
class Spent:
    """What a run has spent so far.

    Attributes:
        steps: finished steps.
        scored: prompts scored by all models; prompts scored before are not scored again.
        gradients: prompts whose gradient was taken.
        predicted: prompts whose next token the source predicted, one forward pass each.
        recalled: candidates that had been scored before and cost nothing.
        draft: prompts scored by the draft model of probe sampling, which is not counted above.
        earlier_seconds: wall time before the run was resumed.
    """

    steps: int = 0
    scored: int = 0
    gradients: int = 0
    predicted: int = 0
    recalled: int = 0
    draft: int = 0
    earlier_seconds: float = 0.0
    _begin: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def forward_passes(self) -> int:
        """Forward passes, gradients included at their cost."""
        return self.scored + self.predicted + GRADIENT_COST * self.gradients

    @property
    def seconds(self) -> float:
        """Wall time, that before a resumption included."""
        return self.earlier_seconds + time.perf_counter() - self._begin

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        values = {k: v for k, v in asdict(self).items() if not k.startswith("_")}
        del values["earlier_seconds"]
        return values | {"forward_passes": self.forward_passes, "seconds": self.seconds}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Spent:
        """Continue counting from what :meth:`to_json` returned."""
        return cls(
            **{name: int(value[name]) for name in _COUNTS},
            earlier_seconds=float(value["seconds"]),
        )
