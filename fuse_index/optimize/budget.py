"""What a run may spend, and what it has spent: every method counts in the same way."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from fuse_index.errors import OptionError

GRADIENT_COST = 2
"""Forward passes that the gradient of one prompt counts as: the models are frozen, so its backward
pass computes no gradient of weights and costs about as much as the forward pass before it."""


class Stop(str, Enum):
    """Why a run ended."""

    STEPS = "steps"
    SECONDS = "seconds"
    FORWARD_PASSES = "forward passes"
    TARGET_LOSS = "target loss"
    MET = "objective met"
    """The best prompt makes the model go on with the target, token by token (early stop)."""
    FINISHED = "finished"
    """The method has nothing left to propose."""
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True)
class Budget:
    """Limits of a run; the first one reached ends it, after the step that reaches it.

    Attributes:
        steps: steps of the method.
        seconds: wall time.
        forward_passes: prompts scored, each by all models, plus :data:`GRADIENT_COST` for every
            prompt whose gradient is taken and 1 for every prompt whose next token is predicted.
        target_loss: total loss that is good enough.
    """

    steps: int | None = 100
    seconds: float | None = None
    forward_passes: int | None = None
    target_loss: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "seconds", "forward_passes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"budget: {name}={value}", expected="more than 0, or none")
        if self.steps is None and self.seconds is None and self.forward_passes is None:
            raise OptionError(
                "a budget without steps, seconds and forward_passes",
                expected="at least one of the three: a target loss may never be reached",
            )

    def reached(self, spent: Spent, best: float) -> Stop | None:
        """Return the limit that is reached, if one is.

        Args:
            spent: what the run has spent.
            best: its smallest total loss.
        """
        limits = (
            (Stop.TARGET_LOSS, self.target_loss is not None and best <= self.target_loss),
            (Stop.STEPS, _over(spent.steps, self.steps)),
            (Stop.FORWARD_PASSES, _over(spent.forward_passes, self.forward_passes)),
            (Stop.SECONDS, _over(spent.seconds, self.seconds)),
        )
        return next((stop for stop, over in limits if over), None)

    def affordable(self, spent: Spent) -> int | None:
        """Return how many more forward passes the budget has, None without a limit."""
        if self.forward_passes is None:
            return None
        return max(0, self.forward_passes - spent.forward_passes)


def _over(value: float, limit: float | None) -> bool:
    return limit is not None and value >= limit


@dataclass
class Spent:
    """What a run has spent so far.

    Attributes:
        steps: finished steps.
        scored: prompts scored by all models; prompts scored before are not scored again.
        gradients: prompts whose gradient was taken.
        predicted: prompts whose next token the source was asked for, one forward pass each.
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
        """Go on counting from what :meth:`to_json` returned."""
        return cls(
            **{name: int(value[name]) for name in _COUNTS},
            earlier_seconds=float(value["seconds"]),
        )


_COUNTS = ("steps", "scored", "gradients", "predicted", "recalled", "draft")
