"""What predictions and scores have cost: every method counts in the same way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fuse_index.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fuse_index.models.base import Model
    from fuse_index.objectives.base import Loss

GRADIENT_COST = 3
"""Forward passes that the gradient of one prompt counts as: its own, and a backward pass of twice
the operations (Kaplan et al. 2020). The models are frozen, so that less is computed; it is counted
as others count it, so that budgets compare."""

FORWARD_FLOPS = 2
"""Floating-point operations of a forward pass for every parameter and token (Kaplan et al.)."""

_COUNTS = ("steps", "scored", "gradients", "predicted", "recalled", "draft")


@dataclass
class Spent:
    """What a run has spent so far.

    Floating-point operations are those of Kaplan's rule: 2 for every token and parameter forward, 4
    more for a gradient. Parameters are those of :attr:`Model.active_parameters
    <fuse_index.models.base.Model.active_parameters>`. Tokens are all that a model reads for a
    prompt, cached or not: head and tail, text before and behind it, the target. What a run computes
    once is left out, such as hidden states of words or what stands before all prompts.

    Attributes:
        steps: finished steps.
        scored: prompts scored by all models; prompts scored before are not scored again.
        gradients: prompts whose gradient was taken.
        predicted: prompts whose next token the source predicted, one forward pass each.
        recalled: candidates that had been scored before and cost nothing.
        draft: prompts scored by the draft model of probe sampling, which is not counted above.
        model_flops: operations by the name of the model, the draft's among them; None for a model
            whose parameters cannot be counted.
        earlier_seconds: wall time before the run was resumed.
    """

    steps: int = 0
    scored: int = 0
    gradients: int = 0
    predicted: int = 0
    recalled: int = 0
    draft: int = 0
    model_flops: dict[str, int | None] = field(default_factory=dict)
    earlier_seconds: float = 0.0
    _begin: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def forward_passes(self) -> int:
        """Forward passes, gradients included at their cost."""
        return self.scored + self.predicted + GRADIENT_COST * self.gradients

    @property
    def flops(self) -> int | None:
        """Floating-point operations of all models; None where one cannot be counted."""
        found = [own for own in self.model_flops.values() if own is not None]
        return sum(found) if len(found) == len(self.model_flops) else None

    @property
    def seconds(self) -> float:
        """Wall time, that before a resumption included."""
        return self.earlier_seconds + time.perf_counter() - self._begin

    def run_forward(self, loss: Loss, lengths: NDArray[np.int64]) -> None:
        """Count the operations of a loss at prompts.

        Args:
            loss: of one model.
            lengths: ``(n,)``, their content tokens in the model.
        """
        self.read(loss.model, loss.count_tokens(lengths))

    def run_gradient(self, loss: Loss, lengths: NDArray[np.int64]) -> None:
        """Count the operations of a loss and its gradient at prompts."""
        self.read(loss.model, GRADIENT_COST * loss.count_tokens(lengths))

    def read(self, model: Model, tokens: int) -> None:
        """Count the operations of a forward pass of tokens."""
        known = self.model_flops.get(model.name, 0)
        if not tokens or known is None:
            return
        try:
            self.model_flops[model.name] = known + FORWARD_FLOPS * model.active_parameters * tokens
        except ModelError:
            self.model_flops[model.name] = None

    def add_flops(self, more: Mapping[str, int | None]) -> None:
        """Add operations counted elsewhere, by the name of the model."""
        for name, own in more.items():
            known = self.model_flops.get(name, 0)
            self.model_flops[name] = None if known is None or own is None else known + own

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        values = {k: v for k, v in asdict(self).items() if not k.startswith("_")}
        del values["earlier_seconds"]
        return values | {
            "forward_passes": self.forward_passes,
            "flops": self.flops,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Spent:
        """Continue counting from what :meth:`to_json` returned."""
        return cls(
            **{name: int(value[name]) for name in _COUNTS},
            model_flops=dict(value.get("model_flops", {})),  # not counted by earlier versions
            earlier_seconds=float(value["seconds"]),
        )
