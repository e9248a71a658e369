"""What a causal language model writes after the prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from fuse_index.common.options import Positive, options
from fuse_index.errors import LossError, OptionError
from fuse_index.models.causal import CausalModel
from fuse_index.models.kinds import ModelKind
from fuse_index.objectives.base import Loss, Objective, register
from fuse_index.objectives.items import ItemObjective
from fuse_index.objectives.shared import SharedStart

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch
    from fuse_index.words.ragged import Ragged

_CHUNK_ROWS = 64


class ContinuationLoss(str, Enum):
    """How far the model is from writing the target."""

    CROSS_ENTROPY = "cross_entropy"
    """Mean negative log-probability of the target's tokens."""
    MELLOWMAX = "mellowmax"
    """A soft maximum over the target's tokens, which looks at the worst one most."""


@register
@options(kw_only=True)
class TargetContinuation(ItemObjective):
    """Make the model go on with a target text after prefix, prompt and suffix (GCG).

    Attributes:
        target: the text that is to follow, tokenized as it stands: begin it with a space where it
            follows a word.
        loss: cross-entropy, or mellowmax (Asadi & Littman 2017) of the negative logits of the
            target's tokens, as nanoGCG has it.
        mellowmax_alpha: sharpness of mellowmax; towards 0 the mean, towards infinity the maximum.
    """

    target: str = ""
    loss: ContinuationLoss = ContinuationLoss.CROSS_ENTROPY
    mellowmax_alpha: Positive = 1.0

    type: ClassVar[str] = "continuation"
    kinds: ClassVar[tuple[ModelKind, ...]] = (ModelKind.CAUSAL,)
    wanted: ClassVar[str] = "target"
    can_be_met: ClassVar[bool] = True

    def require_item(self) -> None:
        """Refuse an empty target."""
        if not self.target:
            raise OptionError("continuation: target ''", expected="a text")

    def _prepare(self, model: Model) -> Loss:
        return _TargetLoss(self, model)


@register
@options(kw_only=True)
class ContinuationDivergence(Objective):
    """Make every token of a text as probable as it is after another prompt.

    The mean over the text's tokens of ``KL(p(. | reference, text so far) || p(. | prompt, text so
    far))``: prompts with a small one act alike ("evil twins", Melamed et al. 2024).

    Attributes:
        reference: the other prompt; it gets the same prefix and suffix.
        text: what follows, tokenized as it stands, best something the model wrote after
            ``reference``.
    """

    reference: str
    text: str

    type: ClassVar[str] = "continuation_kl"
    kinds: ClassVar[tuple[ModelKind, ...]] = (ModelKind.CAUSAL,)

    def __post_init__(self) -> None:
        if not self.text:
            raise OptionError("continuation_kl: text ''", expected="a text")

    def _prepare(self, model: Model) -> Loss:
        return _DivergenceLoss(self, model)


class _ContinuationLoss(Loss):
    """Shared by losses over a fixed text after the prompt."""

    recordable: ClassVar[bool] = True
    model: CausalModel

    def __init__(self, objective: Objective, model: Model, text: str) -> None:
        assert isinstance(model, CausalModel)
        super().__init__(objective, model, objective.surround(model, text))
        self._start = SharedStart(model)
        self._text = torch.tensor(self.surroundings.target_ids, device=model.device)

    def place(self, texts: Sequence[str]) -> None:
        super().place(texts)
        self._text = torch.tensor(self.surroundings.target_ids, device=self.model.device)

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        logits = self.logits(embeds, batch)
        if torch.is_grad_enabled() and logits.requires_grad:
            return self.read(logits.float())
        # over all rows the float32 copies would be most of the memory of scoring
        return torch.cat([self.read(part.float()) for part in torch.split(logits, _CHUNK_ROWS)])

    @property
    def shares_starts(self) -> bool:
        return self._start.possible

    def predictions(self, batch: Batch) -> int:
        return batch.ids.shape[1] - batch.shortest + len(self._text)

    def forget(self) -> None:
        self._start.forget()

    def logits(self, embeds: Tensor, batch: Batch) -> Tensor:
        """Return the logits that predict the text's tokens: (b, T, V) in the model's dtype."""
        size = len(self._text)
        first = batch.shortest - size - 1
        if first < 0:
            raise LossError(
                f"{self.name}: an empty prompt without anything before it",
                expected="a token before the target",
                remedy="give a prefix, or load the model with bos=True",
            )
        run = self._start.needed(batch, batch.ids.shape[1] - 1)
        own = embeds[:, : run.ids.shape[1]]
        prefix = self._start.of(own, run, limit=first)
        output = self.model.forward(own, run, prefix=prefix, logits_from=first)
        assert output.logits is not None
        steps = torch.arange(size, device=embeds.device)
        positions = (batch.totals - size - 1)[:, None] + steps - output.start
        rows = torch.arange(len(batch), device=embeds.device)[:, None]
        return output.logits[rows, positions]

    @abstractmethod
    def read(self, logits: Tensor) -> Tensor:
        """Turn float32 logits that predict the text into losses: (b, T, V) -> (b,)."""


class _TargetLoss(_ContinuationLoss):
    objective: TargetContinuation

    def __init__(self, objective: TargetContinuation, model: Model) -> None:
        super().__init__(objective, model, objective.target)

    def is_satisfied(self, contents: Sequence[Sequence[int]] | Ragged) -> Tensor | None:
        """Whether the model, at every step, finds the target's next token the likeliest."""
        with torch.no_grad():
            batch = self.batch(contents)
            logits = self.logits(self.model.embed(batch.ids), batch)
        return (logits.argmax(dim=-1) == self._text).all(dim=-1)

    def read(self, logits: Tensor) -> Tensor:
        ids = self._text.expand(len(logits), -1)[..., None]
        if self.objective.loss is ContinuationLoss.MELLOWMAX:
            own = logits.gather(-1, ids).squeeze(-1)
            return mellowmax(-own, self.objective.mellowmax_alpha)
        log_probs = functional.log_softmax(logits, dim=-1)
        return -log_probs.gather(-1, ids).squeeze(-1).mean(dim=-1)


class _DivergenceLoss(_ContinuationLoss):
    objective: ContinuationDivergence

    def __init__(self, objective: ContinuationDivergence, model: Model) -> None:
        super().__init__(objective, model, objective.text)
        self._refer()

    def place(self, texts: Sequence[str]) -> None:
        super().place(texts)
        self._refer()

    def _refer(self) -> None:
        """Predict the text behind the reference."""
        with torch.no_grad():
            batch = self.batch([self.surroundings.content(self.objective.reference)])
            logits = self.logits(self.model.embed(batch.ids), batch)
            self._reference = functional.log_softmax(logits.float(), dim=-1)

    def read(self, logits: Tensor) -> Tensor:
        log_probs = functional.log_softmax(logits, dim=-1)
        gap = self._reference.exp() * (self._reference - log_probs)
        return gap.sum(dim=-1).mean(dim=-1)


def mellowmax(values: Tensor, alpha: float) -> Tensor:
    """Return ``log(mean(exp(alpha x))) / alpha`` over the last dimension: (..., n) -> (...)."""
    count = torch.tensor(float(values.shape[-1]))
    return (torch.logsumexp(alpha * values, dim=-1) - torch.log(count)) / alpha
