"""PEZ: descend with a soft prompt, along gradients taken at its projection to tokens.

"Hard Prompts Made Easy" (Wen et al. 2023): the gradient of the nearest tokens moves a continuous
prompt, so that small steps add up until a token flips.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from fuse_index.errors import OptionError
from fuse_index.optimize.anchored import TokenAnchors
from fuse_index.optimize.anchors import AnchorAverage, AnchorOptions
from fuse_index.optimize.methods.base import Context, Method, MethodOptions, Proposals, require
from fuse_index.optimize.nearest import Distance, NearestTokens
from fuse_index.optimize.state import State
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.optimize.state import Ids


@dataclass(frozen=True)
class DescentOptions(AnchorOptions, MethodOptions):
    """Options of descents with soft prompts.

    Attributes:
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        relative: whether the learning rate is in units of the root mean square of the embeddings'
            entries, so that it does not depend on how large a model's embeddings are.
        restarts: soft prompts besides, that begin at random tokens or words, with the lengths of
            the initial prompts.
    """

    learning_rate: float = 0.3
    weight_decay: float = 0.1
    relative: bool = True
    restarts: int = 0

    def __post_init__(self) -> None:
        require(self, weight_decay=0, restarts=0)
        self.check_anchors(swaps=False)
        if self.anchor_average is AnchorAverage.WEIGHTED:
            raise OptionError(
                f"{self.type}: anchor_average 'weighted'",
                expected="'plain': it follows the gradient and ranks no candidates",
            )
        if not self.learning_rate > 0:
            raise OptionError(
                f"{self.type}: learning_rate={self.learning_rate}", expected="more than 0"
            )


@dataclass(frozen=True)
class PEZ(DescentOptions):
    """Options of PEZ.

    The soft prompts go their own way, whatever prompts the search keeps: one begins at each initial
    prompt, and their projections are proposed wherever a token of them has flipped.
    """

    type: ClassVar[str] = "pez"

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts."""
        space = TokenSpace(self, context)
        return SoftDescent(self, context, space, [state.ids for state in states])


class SoftSpace(ABC):
    """Where soft prompts live: a point for each place, and what they project to.

    Attributes:
        unit: of the learning rate; points are counted in it.
        units: how many tokens or words a point can project to.
    """

    unit: float
    units: int

    @abstractmethod
    def begin(self, ids: Ids) -> Tensor:
        """Return the points ``(W, d)`` of a prompt, in the unit of the learning rate."""

    @abstractmethod
    def drawn(self, places: int, generator: torch.Generator) -> Tensor:
        """Return the points ``(W, d)`` of random tokens or words."""

    @abstractmethod
    def nearest(self, points: Tensor) -> Tensor:
        """Project points ``(n, d)``: ``(n,)`` int64 on the CPU."""

    @abstractmethod
    def prompt(self, units: Sequence[int]) -> list[int]:
        """Return the source ids of what a soft prompt projects to."""

    @abstractmethod
    def gradients(self, units: Sequence[Sequence[int]]) -> Tensor:
        """Return the gradients ``(b, W, d)`` at projections, zeros past their ends."""


class TokenSpace(SoftSpace):
    """The source's embeddings, a point a token."""

    def __init__(self, options: PEZ, context: Context) -> None:
        self._context = context
        self._anchors = TokenAnchors(options, context)
        self._anchored = options.anchors > 0
        self._nearest = NearestTokens(context.problem, Distance.COSINE)
        self._table = context.problem.source.table().detach()
        self.unit = self._nearest.scale if options.relative else 1.0
        self.units = len(self._nearest.ids)

    def begin(self, ids: Ids) -> Tensor:
        """Return the points of a prompt's tokens."""
        return self._table[torch.tensor(ids, device=self._table.device)].float() / self.unit

    def drawn(self, places: int, generator: torch.Generator) -> Tensor:
        """Return the points of random tokens."""
        draw = torch.randint(0, self.units, (places,), generator=generator)
        return self.begin(tuple(self._nearest.ids[draw].tolist()))

    def nearest(self, points: Tensor) -> Tensor:
        """Project points to the nearest tokens by cosine."""
        return self._nearest(points)

    def prompt(self, units: Sequence[int]) -> list[int]:
        """Return the tokens themselves."""
        return list(units)

    def gradients(self, units: Sequence[Sequence[int]]) -> Tensor:
        """Return gradients at the tokens, or averaged over their anchors."""
        if not self._anchored:
            rows = Ragged.from_lists(units)
            return self._context.gradients.embeddings(rows, self._context.weights)
        found = [
            self._anchors.embeddings(self._anchors.draw(tuple(ids), range(len(ids))))
            for ids in units
        ]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)


class SoftDescent(Method):
    """Descends with soft prompts ``(r, C, d)``, zero past their ends, in a space.

    Args:
        options: of the descent.
        context: of the run.
        space: where the soft prompts live.
        prompts: where they begin.
    """

    def __init__(
        self, options: DescentOptions, context: Context, space: SoftSpace, prompts: list[Ids]
    ) -> None:
        super().__init__(context)
        self._space = space
        rows = [space.begin(ids) for ids in prompts]
        restarts = list(islice(cycle([len(own) for own in rows]), options.restarts))
        rows += [space.drawn(places, context.generator) for places in restarts]
        self._lengths = [len(own) for own in rows]
        self._soft = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).requires_grad_()
        self._optimizer = torch.optim.AdamW(
            [self._soft], lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._ids = self._projection()
        self._gradient = torch.zeros_like(self._soft, requires_grad=False)
        self._taken = torch.full_like(self._ids, -1)
        """The projections whose gradients these are."""

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        """Take a step, and propose the projections that have flipped."""
        self._take_gradients()
        self._soft.grad = self._gradient
        self._optimizer.step()
        before, self._ids = self._ids, self._projection()
        moved = (self._ids != before).any(dim=1).nonzero()[:, 0].tolist()
        rows = [self._space.prompt(self._units(row)) for row in moved]
        return Proposals(Ragged.from_lists(rows))

    def _units(self, row: int) -> list[int]:
        units: list[int] = self._ids[row, : self._lengths[row]].tolist()
        return units

    def _projection(self) -> Tensor:
        """``(r, C)`` int64: the nearest tokens or words, -1 past a prompt's end."""
        with torch.no_grad():
            found = self._space.nearest(self._soft.flatten(0, 1)).reshape(self._soft.shape[:2])
        here = torch.arange(found.shape[1]) < torch.tensor(self._lengths)[:, None]
        return torch.where(here, found, -1)

    def _take_gradients(self) -> None:
        """Take the gradients at the projections that have changed; the others are still right."""
        rows = (self._ids != self._taken).any(dim=1).nonzero()[:, 0]
        if len(rows):
            found = self._space.gradients([self._units(row) for row in rows.tolist()])
            missing = self._soft.shape[1] - found.shape[1]
            padded = functional.pad(found, (0, 0, 0, missing))
            self._gradient[rows.to(padded.device)] = padded
            self._taken = self._ids.clone()

    def tensors(self) -> dict[str, Tensor]:
        """Return the soft prompts, what they project to, and AdamW's moments."""
        moments = self._optimizer.state.get(self._soft, {})
        own = {
            "soft": self._soft.detach(),
            "ids": self._ids,
            "taken": self._taken,
            "gradient": self._gradient,
        }
        return own | {f"adamw.{name}": value for name, value in moments.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` returned."""
        device = self._soft.device
        with torch.no_grad():
            self._soft.copy_(tensors["soft"])
        self._ids, self._taken = tensors["ids"], tensors["taken"]
        self._gradient = tensors["gradient"].to(device)
        moments = {
            name.removeprefix("adamw."): value
            for name, value in tensors.items()
            if name.startswith("adamw.")
        }
        if moments:
            self._optimizer.state[self._soft] = {
                name: value if name == "step" else value.to(device)
                for name, value in moments.items()
            }
