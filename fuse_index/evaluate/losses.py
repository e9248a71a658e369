"""Target losses whose gradient `validate` measures, each for every row of a batch on its own."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from fuse_index.errors import OptionError
from fuse_index.models.kinds import ModelKind

if TYPE_CHECKING:
    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch

RowLoss = Callable[[Tensor, "Batch"], Tensor]
"""Embeddings ``(b, L, width)`` and their batch to one loss a row, ``(b,)``."""


class Loss(str, Enum):
    """What is measured on the target model."""

    SIMILARITY = "similarity"
    """``1 - cosine`` between the features of the text and those of another text."""
    LABEL = "label"
    """Cross-entropy of a classifier to a label."""
    NLL = "nll"
    """Mean negative log-likelihood of the text's tokens, through their context."""


def loss_for(kind: ModelKind) -> Loss:
    """Return the loss that suits a kind of model best."""
    if kind is ModelKind.CAUSAL:
        return Loss.NLL
    return Loss.LABEL if kind is ModelKind.CLASSIFIER else Loss.SIMILARITY


def kind_for(loss: Loss, kind: ModelKind) -> ModelKind:
    """Say as what a checkpoint of some kind must be loaded for a loss.

    Raises:
        OptionError: the checkpoint cannot give that loss.
    """
    if loss is Loss.SIMILARITY:
        return ModelKind.CLIP if kind is ModelKind.CLIP else ModelKind.ENCODER
    needed = ModelKind.CAUSAL if loss is Loss.NLL else ModelKind.CLASSIFIER
    if kind is not needed:
        raise OptionError(
            f"loss {loss.value!r} of a target of kind {kind.value!r}",
            expected=f"a target of kind {needed.value!r}",
            remedy=f"leave --loss out for {loss_for(kind).value!r}",
        )
    return kind


def similarity_loss(model: Model, other: Tensor) -> RowLoss:
    """Return ``1 - cosine`` to the normalized features ``(d,)`` of another text."""

    def loss(embeds: Tensor, batch: Batch) -> Tensor:
        features = model.forward(embeds, batch, normalize=True).features
        assert features is not None
        return 1.0 - features.float() @ other.float()

    return loss


def label_loss(model: Model, label: int) -> RowLoss:
    """Return the cross-entropy of the classifier to one label."""

    def loss(embeds: Tensor, batch: Batch) -> Tensor:
        logits = model.forward(embeds, batch).logits
        assert logits is not None
        return -functional.log_softmax(logits.float(), dim=-1)[:, label]

    return loss


def nll_loss(model: Model) -> RowLoss:
    """Return the mean negative log-likelihood of the content's tokens.

    The gradient is that of the context: the label of a position is a token id, not an embedding.
    A content token without any token before it has no likelihood and is left out.
    """

    def loss(embeds: Tensor, batch: Batch) -> Tensor:
        logits = model.forward(embeds, batch).logits
        assert logits is not None
        wanted = batch.content[:, 1:]
        log_probs = functional.log_softmax(logits[:, :-1].float(), dim=-1)
        picked = log_probs.gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
        total = torch.where(wanted, picked, picked.new_zeros(())).sum(-1)
        return -total / wanted.sum(-1).clamp(min=1)

    return loss
