"""Bidirectional models of transformers: sequence classifiers and sentence encoders."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from fuse_index.errors import ModelError
from fuse_index.models.base import Model, ModelParts
from fuse_index.models.batch import Batch
from fuse_index.models.kinds import ModelKind, ModelOutput
from fuse_index.models.selfcheck import require_embeds, require_same, settle_padding, trying

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.prefix import Prefix


_DIGITS = 10
"""Of an index, at most."""


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

    Attributes:
        labels: their names.
        problem_type: what the head was trained for, as its configuration has it: None,
            ``"single_label_classification"``, ``"multi_label_classification"`` or ``"regression"``.
    """

    kind: ClassVar[ModelKind] = ModelKind.CLASSIFIER

    def __init__(
        self, module: nn.Module, embedding: nn.Embedding, parts: ModelParts, labels: tuple[str, ...]
    ) -> None:
        self.labels = labels
        self.problem_type: str | None = getattr(module.config, "problem_type", None)
        score = getattr(module, "score", None)
        # a linear layer, or what an adapter has put around it
        self._score = score if isinstance(score, nn.Module) else None
        super().__init__(module, embedding, parts)

    def label_id(self, label: str | int) -> int:
        """Return the index of a label given by name or by index.

        A name comes before an index, as written or in another case: of labels "1", "2" and "3",
        1 is the first.

        Raises:
            ModelError: the classifier does not have the label, which the message lists, or several
                of that name.
        """
        text, folded = str(label), [name.casefold() for name in self.labels]
        for names, wanted in ((list(self.labels), text), (folded, text.casefold())):
            if names.count(wanted) == 1:
                return names.index(wanted)
            if wanted in names:
                raise ModelError(
                    f"{self.name}: {names.count(wanted)} labels are named {label!r}",
                    expected="a name that one label has",
                    remedy=f"give an index, 0 to {len(names) - 1}",
                )
        if text.isdecimal() and len(text) < _DIGITS and int(text) < len(self.labels):
            return int(text)
        raise ModelError(
            f"{self.name}: no label {label!r}",
            expected="one of " + ", ".join(repr(name) for name in self.labels),
        )

    def require_labels(self) -> None:
        """Refuse a head whose outputs are numbers and no labels.

        Raises:
            ModelError: it has one output that is not said to be a label's (rewards), or was trained
                for regression.
        """
        multiple = self.problem_type == "multi_label_classification"
        if self.problem_type == "regression" or (len(self.labels) == 1 and not multiple):
            what = "one output" if len(self.labels) == 1 else f"{len(self.labels)} outputs"
            raise ModelError(
                f"{self.name}: a head of {what} for regression or rewards, which has no label",
                expected="a classifier of several labels, or problem_type "
                "'multi_label_classification'",
                remedy="write a CustomObjective of its logits in Python, or choose another model",
            )

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return log-probabilities of the labels, as the head was trained to give them.

        Each on its own by a sigmoid where a text may have several labels, else by a softmax.

        Args:
            logits: (b, labels).

        Returns:
            (b, labels) float32.
        """
        if self.problem_type == "multi_label_classification":
            return functional.logsigmoid(logits.float())
        return functional.log_softmax(logits.float(), dim=-1)

    def predicted(self, logits: Tensor) -> Tensor:
        """Return which labels are predicted: the likeliest, or all above 1/2 by a sigmoid.

        Args:
            logits: (b, labels).

        Returns:
            (b, labels) bool.
        """
        likely = self.log_probabilities(logits)
        if self.problem_type == "multi_label_classification":
            return likely > math.log(0.5)
        return functional.one_hot(likely.argmax(dim=-1), likely.shape[-1]).bool()

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


def label_names(config: Any, name: str) -> tuple[str, ...]:
    """Return the names of a classifier's labels in the order of its logits.

    Args:
        config: of the classifier.
        name: the model, for the message.

    Raises:
        ModelError: an index has no name.
    """
    names = {int(index): str(label) for index, label in config.id2label.items()}
    if sorted(names) != list(range(len(names))):
        raise ModelError(
            f"{name}: names for the labels {sorted(names)}",
            expected="id2label from 0 on, without a gap",
            remedy="correct id2label in its config.json",
        )
    return tuple(names[index] for index in range(len(names)))
