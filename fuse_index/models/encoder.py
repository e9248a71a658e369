"""Bidirectional models of transformers: sequence classifiers and sentence encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from fuse_index.errors import ModelError
from fuse_index.models.base import Model, ModelParts
from fuse_index.models.batch import Batch
from fuse_index.models.kinds import ModelKind, ModelOutput
from fuse_index.models.selfcheck import require_embeds, require_same, settle_padding, trying

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.prefix import Prefix


class _MaskedModel(Model):
    """Shared by models that look both ways: padding is masked out."""

    def __init__(self, module: nn.Module, embedding: nn.Embedding, parts: ModelParts) -> None:
        super().__init__(module, embedding, parts)
        require_embeds(self)
        self._self_check()
        settle_padding(self)

    def _self_check(self) -> None:
        batch = self.probe()
        with trying(self):
            by_ids = self.module(input_ids=batch.ids, attention_mask=batch.mask.long())
            output = self.forward(self.embed(batch.ids), batch)
        if output.logits is not None:
            require_same(by_ids.logits, output.logits, self)
        elif output.features is not None:
            require_same(masked_mean(by_ids.last_hidden_state, batch), output.features, self)


class ClassifierModel(_MaskedModel):
    """A sequence classifier.

    Classifiers on causal models (Llama, GPT-2) read the last token; given embeddings, transformers
    cannot tell it from padding, so their head is applied here, at each row's own last token.

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
        self.labels = labels
        score = getattr(module, "score", None)
        # a linear layer, or what an adapter has put around it
        self._score = score if isinstance(score, nn.Module) else None
        super().__init__(module, embedding, parts)

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

    def _forward(
        self, embeds: Tensor, batch: Batch, prefix: Prefix | None, logits_from: int
    ) -> ModelOutput:
        inputs = {"inputs_embeds": embeds, "attention_mask": batch.mask.long()}
        if self._score is None:
            return ModelOutput(logits=self.module(**inputs).logits.to(embeds.device))
        base: nn.Module = self.module.base_model  # type: ignore[assignment]
        rows = torch.arange(len(batch), device=embeds.device)
        states = base(**inputs).last_hidden_state.to(embeds.device)
        return ModelOutput(logits=self._score(states[rows, batch.last]).to(embeds.device))


class EncoderModel(_MaskedModel):
    """A sentence encoder: the mean of the last hidden states over a row's real tokens.

    The mean includes the special tokens, as in Sentence-BERT (Reimers & Gurevych 2019).
    """

    kind: ClassVar[ModelKind] = ModelKind.ENCODER

    def _forward(
        self, embeds: Tensor, batch: Batch, prefix: Prefix | None, logits_from: int
    ) -> ModelOutput:
        output = self.module(inputs_embeds=embeds, attention_mask=batch.mask.long())
        return ModelOutput(features=masked_mean(output.last_hidden_state, batch))


def masked_mean(states: Tensor, batch: Batch) -> Tensor:
    """Average (b, L, d) over the real tokens of each row -> (b, d)."""
    states = states.to(batch.mask.device)
    weights = batch.mask.to(states.dtype)
    # torch.where, not a product: what a model computes at padding may be NaN
    kept = torch.where(batch.mask[..., None], states, torch.zeros_like(states))
    return kept.sum(dim=1) / weights.sum(dim=1, keepdim=True)
