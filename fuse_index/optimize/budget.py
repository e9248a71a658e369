"""What a run may spend."""

from __future__ import annotations

import math
import sys
from enum import Enum

from fuse_index.common.options import Count, Level, Operations, Seconds, options
from fuse_index.predict.spent import Spent

DEFAULT_STEPS = 100
"""Steps of a run without any other limit."""


class Stop(str, Enum):
    """Why a run ended."""

    STEPS = "steps"
    SECONDS = "seconds"
    FORWARD_PASSES = "forward passes"
    FLOPS = "flops"
    TARGET_LOSS = "target loss"
    MET = "objective met"
    """The model continues the best prompt with the target, token by token (early stop)."""
    FINISHED = "finished"
    """The method has nothing left to propose."""
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@options(label="budget")
class Budget:
    """Limits of a run; the first one reached ends it, after the step that reaches it.

    Without steps, seconds, forward passes and FLOPs a run ends after 100 steps. A limit that is
    given is the only one.

    Attributes:
        steps: steps of the method.
        seconds: wall time.
        forward_passes: prompts scored, each by all models, plus
            :data:`~fuse_index.predict.spent.GRADIENT_COST` for every prompt whose gradient is
            taken and 1 for every prompt whose next token is predicted.
        flops: floating-point operations by Kaplan's rule, 2 for every parameter and token forward
            and 4 more for a gradient, over all models (:class:`~fuse_index.optimize.Spent`).
        target_loss: total loss that is good enough.
    """

    steps: Count | None = None
    seconds: Seconds | None = None
    forward_passes: Count | None = None
    flops: Operations | None = None
    target_loss: Level | None = None

    @property
    def step_limit(self) -> int | None:
        """Steps, at most: :data:`DEFAULT_STEPS` where nothing else ends the run."""
        others = self.seconds, self.forward_passes, self.flops
        if self.steps is None and all(limit is None for limit in others):
            return DEFAULT_STEPS
        return self.steps

    def reached(self, spent: Spent, best: float) -> Stop | None:
        """Return the limit that is reached, if one is.

        Args:
            spent: what the run has spent.
            best: the smallest total loss so far.
        """
        limits = (
            (Stop.TARGET_LOSS, self.target_loss is not None and best <= self.target_loss),
            (Stop.STEPS, _over(spent.steps, self.step_limit)),
            (Stop.FORWARD_PASSES, _over(spent.forward_passes, self.forward_passes)),
            (Stop.FLOPS, _over(spent.flops or 0, self.flops)),
            (Stop.SECONDS, _over(spent.seconds, self.seconds)),
        )
        return next((stop for stop, over in limits if over), None)

    def affordable(self, spent: Spent) -> int | None:
        """Return how many more forward passes the budget has, None without a limit.

        Of FLOPs, as many as passes that cost what those so far cost on average.
        """
        limits = []
        if self.forward_passes is not None:
            limits.append(self.forward_passes - spent.forward_passes)
        if self.flops is not None and spent.flops and spent.forward_passes:
            left = (self.flops - spent.flops) * spent.forward_passes / spent.flops
            limits.append(math.ceil(min(left, sys.maxsize)))
        return max(0, min(limits)) if limits else None


def _over(value: float, limit: float | None) -> bool:
    return limit is not None and value >= limit
