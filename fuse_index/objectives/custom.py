"""Custom objectives: any function of embeddings, or of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fuse_index.common.options import options
from fuse_index.errors import LossError
from fuse_index.models.base import Model
from fuse_index.models.batch import Batch
from fuse_index.objectives.base import Loss, Objective

ModelFunction = Callable[[Model, Tensor, Batch], Tensor]
TextFunction = Callable[[Sequence[str]], Sequence[float] | Tensor]


@options(kw_only=True)
class CustomObjective(Objective):
    """A differentiable function of a model and a batch.

    Attributes:
        function: ``function(model, embeds (b, L, width), batch) -> (b,)``, one loss a prompt;
            ``model.forward(embeds, batch)`` runs the model.
    """

    function: ModelFunction

    type: ClassVar[str] = "custom"

    def _prepare(self, model: Model) -> Loss:
        return _CustomLoss(self, model)


@options(kw_only=True)
class CustomTextObjective(Objective):
    """Any function of texts; it scores candidates and gives no gradient.

    Attributes:
        function: texts with prefix and suffix -> one loss a text.
    """

    function: TextFunction

    type: ClassVar[str] = "custom_text"
    differentiable: ClassVar[bool] = False

    def _prepare(self, model: Model) -> Loss:
        return _CustomTextLoss(self, model)


class _CustomLoss(Loss):
    objective: CustomObjective

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        return self.objective.function(self.model, embeds, batch)


class _CustomTextLoss(Loss):
    runs_model: ClassVar[bool] = False
    objective: CustomTextObjective

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        options = self.objective
        texts = [self.surroundings.full_text(text) for text in self.texts(batch)]
        try:
            losses = torch.as_tensor(options.function(texts), dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise LossError(
                f"{self.name}: the function does not give numbers ({error})",
                expected=f"{len(texts)} numbers, one for every text",
            ) from error
        return losses.to(embeds.device)
