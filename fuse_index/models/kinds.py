"""Kinds of models, and what a forward pass returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class ModelKind(str, Enum):
    """The role a checkpoint is loaded for; one checkpoint may serve several."""

    CAUSAL = "causal"
    """A causal language model: next-token logits."""
    CLIP = "clip"
    """A text tower and an image tower with one feature space (CLIP, SigLIP)."""
    CLASSIFIER = "classifier"
    """A sequence classifier: one logit per label."""
    ENCODER = "encoder"
    """A sentence encoder: the mean of the last hidden states over the real tokens."""


@dataclass(frozen=True)
class ModelOutput:
    """What one forward pass gives; the fields that a kind does not have are None.

    Attributes:
        logits: (b, L - start, vocabulary size) for causal language models, where entry ``[:, i]``
            predicts the token at position ``start + i + 1``; rows of the output layer that no
            token uses are left out, so columns match the rows of ``Model.table()``.
            (b, labels) for classifiers.
        features: (b, d) for encoders and CLIP.
        start: position in the batch of the first row of a causal model's logits.
    """

    logits: Tensor | None = None
    features: Tensor | None = None
    start: int = 0
