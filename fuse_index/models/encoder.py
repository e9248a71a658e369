"""Bidirectional models of transformers: sequence classifiers and sentence encoders."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, ClassVar

import torch

from fuse_index.errors import ModelError, OptionError
from fuse_index.models.base import Model, ModelParts
from fuse_index.models.batch import Batch
from fuse_index.models.kinds import ModelKind, ModelOutput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fuse_index.models.prefix import Prefix


class _MaskedModel(Model):
    """Shared by models that look both ways: padding is masked out."""

    def __init__(self, module: nn.Module, embedding: nn.Embedding, parts: ModelParts) -> None:
        super().__init__(module, embedding, parts)
        if "inputs_embeds" not in inspect.signature(module.forward).parameters:
            raise ModelError(
                f"{parts.name}: {type(module).__name__} does not take input embeddings",
                expected="a model whose forward has inputs_embeds",
                remedy="choose another model",
            )

    def _refuse_causal_options(self, prefix: Prefix | None, logits_from: int) -> None:
        self._refuse_prefix(prefix)
        if logits_from:
            raise OptionError(
                f"{self.name}: logits_from={logits_from}", expected="a causal language model"
            )


class ClassifierModel(_MaskedModel):
    """A sequence classifier.

    Args:
        module: what ``AutoModelForSequenceClassification`` loads.
        embedding: its input embedding module.
        parts: tokenizer, frame and limits.
        labels: the names of the labels in the order of the logits.
    """

    kind: ClassVar[ModelKind] = ModelKind.CLASSIFIER

    def __init__(
        self, module: nn.Module, embedding: nn.Embedding, parts: ModelParts, labels: tuple[str, ...]
    ) -> None:
        super().__init__(module, embedding, parts)
        self.labels = labels

    def label_id(self, label: str | int) -> int:
        """Return the index of a label given by name (case does not matter) or by index.

        Raises:
            ModelError: the classifier does not have the label; the message lists those it has.
        """
        if isinstance(label, int):
            if 0 <= label < len(self.labels):
                return label
        elif label in self.labels:
            return self.labels.index(label)
        else:
            folded = [name.casefold() for name in self.labels]
            if folded.count(label.casefold()) == 1:
                return folded.index(label.casefold())
        raise ModelError(
            f"{self.name}: no label {label!r}",
            expected="one of " + ", ".join(repr(name) for name in self.labels),
        )

    def forward(
        self,
        embeds: Tensor,
        batch: Batch,
        *,
        prefix: Prefix | None = None,
        logits_from: int = 0,
        normalize: bool = False,
    ) -> ModelOutput:
        """Return ``logits`` (b, labels)."""
        self._check_embeds(embeds, batch)
        self._refuse_causal_options(prefix, logits_from)
        if normalize:
            raise OptionError(f"{self.name}: normalize=True", expected="an encoder or CLIP")
        output = self.module(inputs_embeds=embeds, attention_mask=batch.mask.long())
        return ModelOutput(logits=output.logits)


class EncoderModel(_MaskedModel):
    """A sentence encoder: the mean of the last hidden states over a row's real tokens.

    The mean includes the special tokens, as in Sentence-BERT (Reimers & Gurevych 2019).
    """

    kind: ClassVar[ModelKind] = ModelKind.ENCODER

    def forward(
        self,
        embeds: Tensor,
        batch: Batch,
        *,
        prefix: Prefix | None = None,
        logits_from: int = 0,
        normalize: bool = False,
    ) -> ModelOutput:
        """Return ``features`` (b, width of the hidden states)."""
        self._check_embeds(embeds, batch)
        self._refuse_causal_options(prefix, logits_from)
        output = self.module(inputs_embeds=embeds, attention_mask=batch.mask.long())
        features = masked_mean(output.last_hidden_state, batch)
        if normalize:
            features = torch.nn.functional.normalize(features, dim=-1)
        return ModelOutput(features=features)


def masked_mean(states: Tensor, batch: Batch) -> Tensor:
    """Average (b, L, d) over the real tokens of each row -> (b, d)."""
    weights = batch.mask.to(states.dtype)
    # torch.where, not a product: what a model computes at padding may be NaN
    kept = torch.where(batch.mask[..., None], states, torch.zeros_like(states))
    return kept.sum(dim=1) / weights.sum(dim=1, keepdim=True)
