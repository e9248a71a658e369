"""What a method is: it proposes candidates for the prompts a search has chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.errors import OptionError
from fuse_index.optimize.state import State
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.optimize.gradient import Differentiator
    from fuse_index.optimize.problem import Problem
    from fuse_index.optimize.state import Losses, Scored


@dataclass(eq=False)
class Context:
    """What a method works with.

    Attributes:
        problem: what is optimized.
        gradients: its gradients, counted.
        is_new: ``n`` rows -> ``(n,)``: which were not scored yet and survive as text, so that a
            method that ranks candidates does not propose the same ones again and again.
        generator: the run's only source of randomness, on the CPU so that devices do not matter.
        weights: ``(terms,)``, the weights of the terms now.
        totals: ``n`` rows -> ``(n,)`` weighted losses, counted and remembered like those of
            proposals, for methods that score within a step; infinite where a prompt does not
            survive as text, or probe sampling leaves it out.
        recent: the candidates of the last step, until a method has looked at them.
    """

    problem: Problem
    gradients: Differentiator
    is_new: Callable[[Ragged], NDArray[np.bool_]]
    generator: torch.Generator
    weights: Losses
    totals: Callable[[Ragged], Losses]
    recent: Scored | None = None


@dataclass(frozen=True, eq=False)
class Proposals:
    """Candidates of one step.

    Attributes:
        prompts: ``n`` rows of source ids; repeats and the current prompts may be among them.
        grown: whether they are longer than the prompts they come from, which then make way.
    """

    prompts: Ragged
    grown: bool = False


@dataclass(frozen=True)
class MethodOptions(ABC):
    """Options of a method; a subclass a method."""

    type: ClassVar[str] = ""
    """Name in files and on the command line."""

    uses_gradient: ClassVar[bool] = True
    """Whether the method follows the gradient, whatever its options."""

    @property
    def follows_gradient(self) -> bool:
        """Whether it takes the gradient of the objectives."""
        return self.uses_gradient

    @property
    def needs_adapters(self) -> bool:
        """Whether it needs an adapter for every model with other tokens than the source."""
        return self.follows_gradient

    @property
    def needs_layers(self) -> bool:
        """Whether words are met at their hidden states, which take a while to be made once."""
        return False

    @abstractmethod
    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts."""

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON object with the type name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {k: v.value if isinstance(v, Enum) else v for k, v in values.items()}
        return {"type": self.type, **plain}


class Method(ABC):
    """Proposes candidates.

    Args:
        context: what it works with.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals | None:
        """Propose candidates for the prompts a search works on.

        Args:
            states: the prompts, at least one.
            most: how many candidates the budget still has room for, None without a limit.

        Returns:
            The candidates, or None if the method has come to its end.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs, beside the frontier and the generator."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` returned."""
        del tensors


def rows_of(states: Sequence[State]) -> Ragged:
    """Return the prompts of states as rows."""
    return Ragged.from_lists([state.ids for state in states])


def shares(total: int, parts: int) -> list[int]:
    """Divide ``total`` candidates among ``parts`` prompts, the first ones getting the rest."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def require(options: MethodOptions, **least: float) -> None:
    """Refuse options below their least value.

    Raises:
        OptionError: one is.
    """
    for name, value in least.items():
        given = getattr(options, name)
        if isinstance(given, bool) or given < value:
            raise OptionError(f"{options.type}: {name}={given}", expected=f"at least {value}")


def packed(rows: Sequence[NDArray[np.int64]]) -> Ragged:
    """Pack rectangles ``(n_i, L_i)`` of prompts one after another."""
    lengths = np.concatenate([np.full(len(part), part.shape[1], np.int64) for part in rows])
    values = np.concatenate([part.reshape(-1) for part in rows])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Ragged(offsets, values)
