"""PEZ: descend with a soft prompt, along gradients taken at its projection to tokens.

"Hard Prompts Made Easy" (Wen et al. 2023): the gradient of the nearest tokens moves a continuous
prompt, so that small steps add up until a token flips.
"""

from __future__ import annotations

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
class PEZ(AnchorOptions, MethodOptions):
    """Options of PEZ.

    The soft prompts go their own way, whatever prompts the search keeps: one begins at each initial
    prompt, and their projections are proposed wherever a token of them has flipped.

    Attributes:
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        relative: whether the learning rate is in units of the root mean square of the embeddings'
            entries, so that it does not depend on how large a model's embeddings are.
        restarts: soft prompts besides, that begin at random tokens, with the lengths of the initial
            prompts.
    """

    learning_rate: float = 0.3
    weight_decay: float = 0.1
    relative: bool = True
    restarts: int = 0

    type: ClassVar[str] = "pez"

    def __post_init__(self) -> None:
        require(self, weight_decay=0, restarts=0)
        self.check_anchors(swaps=False)
        if self.anchor_average is AnchorAverage.WEIGHTED:
            raise OptionError(
                "pez: anchor_average 'weighted'",
                expected="'plain': it follows the gradient and ranks no candidates",
            )
        if not self.learning_rate > 0:
            raise OptionError(f"pez: learning_rate={self.learning_rate}", expected="more than 0")

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts."""
        return _PEZMethod(self, context, [state.ids for state in states])


class _PEZMethod(Method):
    """The soft prompts: ``(r, C, d)``, in the unit of the learning rate, zero past their ends."""

    def __init__(self, options: PEZ, context: Context, prompts: list[Ids]) -> None:
        super().__init__(context)
        self._anchors = TokenAnchors(options, context)
        self._anchored = options.anchors > 0
        self._nearest = NearestTokens(context.problem, Distance.COSINE)
        prompts += self._random(list(islice(cycle(prompts), options.restarts)))
        self._lengths = [len(ids) for ids in prompts]
        table = context.problem.source.table().detach()
        unit = self._nearest.scale if options.relative else 1.0
        rows = [table[torch.tensor(ids, device=table.device)].float() / unit for ids in prompts]
        self._soft = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).requires_grad_()
        self._optimizer = torch.optim.AdamW(
            [self._soft], lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._ids = self._projection()
        self._gradient = torch.zeros_like(self._soft, requires_grad=False)
        self._taken = torch.full_like(self._ids, -1)
        """The projections whose gradients these are."""

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        self._take_gradients()
        self._soft.grad = self._gradient
        self._optimizer.step()
        before, self._ids = self._ids, self._projection()
        moved = (self._ids != before).any(dim=1).nonzero()[:, 0].tolist()
        return Proposals(Ragged.from_lists([self._prompt(row) for row in moved]))

    def _random(self, prompts: list[Ids]) -> list[Ids]:
        """Other tokens in the same places."""
        ids, generator = self._nearest.ids, self.context.generator
        sizes = [len(prompt) for prompt in prompts]
        draws = [torch.randint(0, len(ids), (size,), generator=generator) for size in sizes]
        return [tuple(ids[draw].tolist()) for draw in draws]

    def _prompt(self, row: int) -> list[int]:
        ids: list[int] = self._ids[row, : self._lengths[row]].tolist()
        return ids

    def _projection(self) -> Tensor:
        """``(r, C)`` int64: the nearest tokens, -1 past a prompt's end."""
        with torch.no_grad():
            found = self._nearest(self._soft.flatten(0, 1)).reshape(self._soft.shape[:2])
        here = torch.arange(found.shape[1]) < torch.tensor(self._lengths)[:, None]
        return torch.where(here, found, -1)

    def _take_gradients(self) -> None:
        """Take the gradients at the projections that have changed; the others are still right."""
        rows = (self._ids != self._taken).any(dim=1).nonzero()[:, 0]
        if len(rows):
            found = self._gradients([self._prompt(row) for row in rows.tolist()])
            missing = self._soft.shape[1] - found.shape[1]
            padded = functional.pad(found, (0, 0, 0, missing))
            self._gradient[rows.to(padded.device)] = padded
            self._taken = self._ids.clone()

    def _gradients(self, prompts: list[list[int]]) -> Tensor:
        """``(b, C, d)``: the gradient at each prompt, or averaged over its anchors."""
        if not self._anchored:
            rows = Ragged.from_lists(prompts)
            return self.context.gradients.embeddings(rows, self.context.weights)
        found = [
            self._anchors.embeddings(self._anchors.draw(tuple(ids), range(len(ids))))
            for ids in prompts
        ]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)

    def tensors(self) -> dict[str, Tensor]:
        moments = self._optimizer.state.get(self._soft, {})
        own = {
            "soft": self._soft.detach(),
            "ids": self._ids,
            "taken": self._taken,
            "gradient": self._gradient,
        }
        return own | {f"adamw.{name}": value for name, value in moments.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
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
