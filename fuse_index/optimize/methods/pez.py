"""PEZ: descend with a soft prompt, along gradients taken at its projection to tokens or words.

"Hard Prompts Made Easy" (Wen et al. 2023): the gradient of the nearest tokens moves a continuous
prompt, so that small steps add up until a token flips.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fuse_index.common.options import NaturalWidth, NonNegative, Positive, Share, options
from fuse_index.errors import OptionError
from fuse_index.optimize.methods.base import Context, Method, MethodOptions, Proposals
from fuse_index.optimize.spaces import SoftSpace, TokenSpace, WordSpace
from fuse_index.optimize.state import Ids, Scored, State, below
from fuse_index.predict.predictor import require_predictor
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.units import Unit
from fuse_index.predict.weights import by_weights
from fuse_index.words.ragged import Ragged


@options()
class PEZ(MethodOptions):
    """Options of PEZ.

    The soft prompts take their course, whatever prompts the search keeps: one begins at each
    initial prompt, and their projections are proposed wherever a token or word of them has flipped.

    Attributes:
        unit: what a point of a soft prompt projects to, a token or a word.
        predictor: how gradients reach the points; not ``layers``, since points live among
            embeddings. By default ``adapter`` for tokens. For words, ``embedding`` (the default)
            puts the points in the embeddings of every model with a gradient, side by side;
            ``adapter`` in those of the source; ``mixture`` makes soft prompts of both kinds.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        relative: whether the learning rate is in units of the root mean square of the embeddings'
            entries, so that it does not depend on how large a model's embeddings are.
        restarts: additional soft prompts that begin at random tokens or words, with the lengths of
            the initial prompts.
        residual_scale: factor of the gradient through the residual branches of every model, 1 as it
            is (LSGM); the losses stay as they are.
    """

    unit: Unit = Unit.TOKEN
    predictor: Predictor | None = None
    learning_rate: Positive = 0.3
    weight_decay: NonNegative = 0.1
    relative: bool = True
    restarts: NaturalWidth = 0
    residual_scale: Share = 1.0

    type: ClassVar[str] = "pez"

    def __post_init__(self) -> None:
        words = self.unit is Unit.WORD
        self.fill(predictor=Predictor.EMBEDDING if words else Predictor.ADAPTER)
        assert self.predictor is not None
        require_predictor(self.unit, self.predictor)
        if self.predictor is Predictor.LAYERS:
            raise OptionError(
                "pez: predictor 'layers'",
                expected="embedding, adapter or mixture: its points live among embeddings",
            )

    @property
    def ranking(self) -> tuple[Unit, Predictor]:
        """What the gradient moves, and how it gets there."""
        assert self.predictor is not None
        return self.unit, self.predictor

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts.

        Raises:
            OptionError: no term has a gradient, a model has no adapter, or there are no words.
        """
        context = context.scaled(self.residual_scale)
        prompts = [state.ids for state in states]
        parts = [_SoftDescent(self, context, space, prompts) for space in self._spaces(context)]
        return parts[0] if len(parts) == 1 else _Together(context, parts)

    def _spaces(self, context: Context) -> list[SoftSpace]:
        problem, gradients = context.problem, context.gradients
        if self.unit is Unit.TOKEN:
            return [TokenSpace(problem, gradients, relative=self.relative)]
        kinds = [self.ranking[1]]
        if self.predictor is Predictor.MIXTURE:
            kinds = [Predictor.EMBEDDING, Predictor.ADAPTER]
        return [WordSpace(problem, gradients, kind, relative=self.relative) for kind in kinds]


class _SoftDescent(Method):
    """Descends with soft prompts ``(r, C, d)``, zero past their ends, in a space."""

    def __init__(
        self, options: PEZ, context: Context, space: SoftSpace, prompts: list[Ids]
    ) -> None:
        super().__init__(context)
        self._space = space
        rows = [space.begin(ids) for ids in prompts]
        for count in list(islice(cycle([len(own) for own in rows]), options.restarts)):
            drawn = torch.randint(0, space.size, (count,), generator=context.generator)
            rows.append(space.points_of(drawn))
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
        """Take the gradients at the projections that have changed."""
        rows = (self._ids != self._taken).any(dim=1).nonzero()[:, 0]
        if len(rows):
            units = [self._units(row) for row in rows.tolist()]
            prompts = Ragged.from_lists([self._space.prompt(own) for own in units])
            for part, weights in by_weights(self.context.weights(prompts)):
                found = self._space.gradients([units[i] for i in part], weights)
                missing = self._soft.shape[1] - found.shape[1]
                padded = functional.pad(found, (0, 0, 0, missing))
                self._gradient[rows[torch.from_numpy(part)].to(padded.device)] = padded
            self._taken = self._ids.clone()

    def change_items(self) -> None:
        """Take all gradients anew."""
        self._taken.fill_(-1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the soft prompts, their projections, and AdamW's moments."""
        moments = self._optimizer.state.get(self._soft, {})
        own = {
            "soft": self._soft.detach(),
            "ids": self._ids,
            "taken": self._taken,
            "gradient": self._gradient,
        }
        return own | {f"adamw.{name}": value for name, value in moments.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what :meth:`tensors` returned."""
        device = self._soft.device
        with torch.no_grad():
            self._soft.copy_(tensors["soft"])
        self._ids, self._taken = tensors["ids"], tensors["taken"]
        self._gradient = tensors["gradient"].to(device)
        if moments := below("adamw.", tensors):
            self._optimizer.state[self._soft] = {
                name: value if name == "step" else value.to(device)
                for name, value in moments.items()
            }


class _Together(Method):
    """Several descents whose proposals are scored together."""

    def __init__(self, context: Context, parts: Sequence[Method]) -> None:
        super().__init__(context)
        self._parts = parts

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        found = [part.propose(states, most) for part in self._parts]
        return Proposals(Ragged.concatenate([own.prompts for own in found if own is not None]))

    def observe(self, scored: Scored) -> None:
        for part in self._parts:
            part.observe(scored)

    def change_items(self) -> None:
        for part in self._parts:
            part.change_items()

    def tensors(self) -> dict[str, Tensor]:
        parts = [(i, part.tensors()) for i, part in enumerate(self._parts)]
        return {f"{i}.{name}": value for i, own in parts for name, value in own.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for i, part in enumerate(self._parts):
            part.load_tensors(below(f"{i}.", tensors))
