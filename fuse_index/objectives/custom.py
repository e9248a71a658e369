"""Objectives of the user's own: any function of embeddings, or of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fuse_index.errors import LossError, OptionError
from fuse_index.objectives.base import Loss, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch

ModelFunction = Callable[["Model", "Tensor", "Batch"], "Tensor"]
TextFunction = Callable[[Sequence[str]], "Sequence[float] | Tensor"]


@dataclass(frozen=True, kw_only=True)
class CustomObjective(Objective):
    """A differentiable function of a model and a batch.

    Attributes:
        function: ``function(model, embeds (b, L, width), batch) -> (b,)``, one loss a prompt;
            ``model.forward(embeds, batch)`` runs the model.
    """

    function: ModelFunction

    type: ClassVar[str] = "custom"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_callable(self.function, self.type)

    def _prepare(self, model: Model) -> Loss:
        return _CustomLoss(self, model)


@dataclass(frozen=True, kw_only=True)
class CustomTextObjective(Objective):
    """Any function of texts; it scores candidates and gives no gradient.

    Attributes:
        function: texts with prefix and suffix -> one loss a text.
    """

    function: TextFunction

    type: ClassVar[str] = "custom_text"
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_callable(self.function, self.type)

    def _prepare(self, model: Model) -> Loss:
        return _CustomTextLoss(self, model)


class _CustomLoss(Loss):
    objective: CustomObjective

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        return self.objective.function(self.model, embeds, batch)


class _CustomTextLoss(Loss):
    objective: CustomTextObjective

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        options = self.objective
        texts = [f"{options.prefix}{text}{options.suffix}" for text in self.texts(batch)]
        try:
            losses = torch.as_tensor(options.function(texts), dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise LossError(
                f"{self.name}: the function does not give numbers ({error})",
                expected=f"{len(texts)} numbers, one for every text",
            ) from error
        return losses.to(embeds.device)


def _require_callable(function: object, type_name: str) -> None:
    if not callable(function):
        raise OptionError(
            f"{type_name}: function of type {type(function).__name__}", expected="a callable"
        )
