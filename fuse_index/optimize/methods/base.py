"""Methods: they propose candidates for the prompts that a search has selected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.common.options import options
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.state import Losses, Scored, State
from fuse_index.predict.gradients import Gradients
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.units import Unit
from fuse_index.words.ragged import Ragged


@dataclass(eq=False)
class Context:
    """The parts of a run that a method uses.

    Attributes:
        problem: what is optimized.
        gradients: its gradients, counted.
        is_new: ``n`` rows -> ``(n,)``: which were not scored yet and survive as text, so that a
            method that ranks candidates does not propose the same ones again.
        generator: the run's only source of randomness, on the CPU so that devices do not matter.
        weights: ``n`` rows -> ``(n, losses)``, the weights of the losses at prompts; those of items
            that count now, of the worst alone where the worst counts.
        totals: ``n`` rows -> ``(n,)`` weighted losses, counted and remembered like those of
            proposals, for methods that score within a step; infinite where a prompt does not
            survive as text, or probe sampling leaves it out.
        passes: -> forward passes that one candidate costs now.
    """

    problem: Problem
    gradients: Gradients
    is_new: Callable[[Ragged], NDArray[np.bool_]]
    generator: torch.Generator
    weights: Callable[[Ragged], Losses]
    totals: Callable[[Ragged], Losses]
    passes: Callable[[], int]

    def scaled(self, residual_scale: float) -> Context:
        """Return the same with gradients scaled in residual branches.

        Raises:
            ModelError: the branches of a model cannot be told apart.
        """
        return replace(self, gradients=self.gradients.scaled(residual_scale))


@dataclass(frozen=True, eq=False)
class Proposals:
    """Candidates of one step.

    Attributes:
        prompts: ``n`` rows of source ids; repeats and the current prompts may be among them.
        grown: whether they are longer than the prompts they come from, which then make way.
    """

    prompts: Ragged
    grown: bool = False


@options()
class MethodOptions(ABC):
    """Options of a method; one subclass for each method."""

    type: ClassVar[str] = ""
    """Name in files and on the command line."""
    compares_steps: ClassVar[bool] = False
    """Whether it compares losses of different steps, in which the same items must count."""

    @property
    @abstractmethod
    def ranking(self) -> tuple[Unit, Predictor] | None:
        """The units that a gradient ranks, and by which predictor; None without a gradient.

        It says whether adapters are needed, and hidden states of which units.
        """

    @abstractmethod
    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts."""

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON object with the type name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {k: v.value if isinstance(v, Enum) else v for k, v in values.items()}
        return {"type": self.type, **plain}

    def fill(self, **defaults: Any) -> None:
        """Replace options that are None by defaults, in ``__post_init__``."""
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


class Method(ABC):
    """Proposes candidates.

    Args:
        context: the parts of the run it uses.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals | None:
        """Propose candidates for the prompts a search works on.

        Args:
            states: the prompts, at least one.
            most: forward passes that the budget still has, None without a limit.

        Returns:
            The candidates, or None if the method is finished.
        """

    def observe(self, scored: Scored) -> None:
        """Learn from the scored candidates of a step."""
        del scored

    def change_items(self) -> None:
        """Take notice that other items count from now on."""
        return

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs, beside the frontier and the generator."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what :meth:`tensors` returned."""
        del tensors


def shares(total: int, parts: int) -> list[int]:
    """Divide ``total`` candidates among ``parts`` prompts, the first ones getting the rest."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def width_of(search_width: int, most: int | None, passes: int) -> int:
    """Return the candidates of a step: the search width, or what the budget still allows.

    Args:
        search_width: as asked for.
        most: forward passes that the budget still has, None without a limit.
        passes: that one candidate costs.
    """
    return search_width if most is None else min(search_width, max(most // passes, 1))


def random_positions(count: int, most: int | None, generator: torch.Generator) -> list[int]:
    """Draw at most ``most`` of ``count`` positions; all of them, in order, without a limit."""
    if most is None or most >= count:
        return list(range(count))
    chosen: list[int] = torch.randperm(count, generator=generator)[:most].tolist()
    return chosen
