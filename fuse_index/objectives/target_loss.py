"""The objective that suits a kind of model, for measuring gradients of a target."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from fuse_index.errors import OptionError
from fuse_index.models.kinds import ModelKind
from fuse_index.objectives.base import Loss, Objective
from fuse_index.objectives.features import ClassifierLabel, TextSimilarity
from fuse_index.objectives.language import Fluency, FluencyLoss

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch


@dataclass(frozen=True, kw_only=True)
class ContextLikelihood(Fluency):
    """Fluency whose gradient is that of the context alone: a label is a token, not an embedding."""

    def _prepare(self, model: Model) -> Loss:
        return _ContextLoss(self, model)


class _ContextLoss(FluencyLoss):
    def pick(
        self, scores: Tensor, embeds: Tensor, batch: Batch, labels: Tensor | None, first: int
    ) -> Tensor:
        ids = batch.ids[: len(scores), first : first + scores.shape[1]]
        return scores.gather(-1, ids[..., None]).squeeze(-1)


class TargetLoss(str, Enum):
    """The loss of a target model whose gradient is measured."""

    SIMILARITY = "similarity"
    """``1 - cosine`` between the features of the text and those of another text."""
    LABEL = "label"
    """Cross-entropy of a classifier to a label."""
    NLL = "nll"
    """Mean negative log-likelihood of the text's tokens, through their context."""

    def objective(self, *, other: str = "", label: str | int = 0) -> Objective:
        """Return the objective.

        Args:
            other: the other text, for :attr:`SIMILARITY`.
            label: name or index of the label, for :attr:`LABEL`.
        """
        if self is TargetLoss.SIMILARITY:
            return TextSimilarity(texts=other)
        return ClassifierLabel(label=label) if self is TargetLoss.LABEL else ContextLikelihood()


def loss_for(kind: ModelKind) -> TargetLoss:
    """Return the loss that suits a kind of model best."""
    if kind is ModelKind.CAUSAL:
        return TargetLoss.NLL
    return TargetLoss.LABEL if kind is ModelKind.CLASSIFIER else TargetLoss.SIMILARITY


def kind_for(loss: TargetLoss, kind: ModelKind) -> ModelKind:
    """Return the kind as which a checkpoint of some kind must be loaded for a loss.

    Raises:
        OptionError: the checkpoint cannot give that loss.
    """
    if loss is TargetLoss.SIMILARITY:
        return ModelKind.CLIP if kind is ModelKind.CLIP else ModelKind.ENCODER
    needed = ModelKind.CAUSAL if loss is TargetLoss.NLL else ModelKind.CLASSIFIER
    if kind is not needed:
        raise OptionError(
            f"loss {loss.value!r} of a target of kind {kind.value!r}",
            expected=f"a target of kind {needed.value!r}",
            remedy=f"leave --loss out for {loss_for(kind).value!r}",
        )
    return kind
