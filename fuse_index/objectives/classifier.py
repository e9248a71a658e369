"""The label a classifier gives the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch.nn import functional

from fuse_index.common.options import options
from fuse_index.models.encoder import ClassifierModel
from fuse_index.models.kinds import ModelKind
from fuse_index.objectives.base import Loss, Objective, register

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch


@register
@options(kw_only=True)
class ClassifierLabel(Objective):
    """Cross-entropy of a classifier to a label, ``- log p(label | prompt)``.

    Attributes:
        label: name of the label, or its index.
    """

    label: str | int

    type: ClassVar[str] = "label"
    kinds: ClassVar[tuple[ModelKind, ...]] = (ModelKind.CLASSIFIER,)

    def _prepare(self, model: Model) -> Loss:
        return _LabelLoss(self, model)


class _LabelLoss(Loss):
    recordable: ClassVar[bool] = True

    def __init__(self, objective: ClassifierLabel, model: Model) -> None:
        assert isinstance(model, ClassifierModel)
        super().__init__(objective, model)
        self._label = model.label_id(objective.label)

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        logits = self.model.forward(embeds, batch).logits
        assert logits is not None
        return -functional.log_softmax(logits.float(), dim=-1)[:, self._label]
