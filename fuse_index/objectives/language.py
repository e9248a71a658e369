"""The likelihood of a prompt under a causal language model: fluency, energy, divergence."""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional
from typing_extensions import override

from fuse_index.common.options import Flag, Positive, options
from fuse_index.errors import ModelError
from fuse_index.models.causal import CausalModel
from fuse_index.models.kinds import ModelKind
from fuse_index.objectives.base import Loss, Objective, register
from fuse_index.objectives.labels import align_labels, label_space
from fuse_index.objectives.shared import SharedStart

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch
    from fuse_index.models.surroundings import Surroundings


_CHUNK_ROWS = 64
_LENGTH_EXPONENT = 0.65


class TokenReduction(str, Enum):
    """How the tokens of one prompt make one loss."""

    MEAN = "mean"
    """Their mean, so that prompts of different lengths compare."""
    SUM = "sum"
    """Their sum: the likelihood of the whole prompt."""
    LENGTH = "length"
    """Their sum over ``((5 + n) / 6) ** 0.65`` for ``n`` tokens (Wu et al. 2016): between the two,
    so that neither leaving out nor padding pays."""


def length_penalty(counts: Tensor) -> Tensor:
    """Return by how much a sum of log-probabilities is divided, for texts of so many tokens.

    ``((5 + n) / 6) ** 0.65``, the length normalization of "Google's Neural Machine Translation
    System" (Wu et al. 2016), with an exponent from the range they recommend.

    Args:
        counts: ``(b,)``, tokens of each text.
    """
    return ((5 + counts) / 6) ** _LENGTH_EXPONENT


@options(kw_only=True)
class _LanguageObjective(Objective):
    kinds: ClassVar[tuple[ModelKind, ...]] = (ModelKind.CAUSAL,)


@register
@options(kw_only=True)
class Fluency(_LanguageObjective):
    """Negative log-likelihood of the prompt's tokens, ``- log p(x_t | x_<t)``.

    The gradient is the true one, through the context and through the label
    (:mod:`fuse_index.objectives.labels`). A first token without any before it has no likelihood and
    is left out: give a prefix, or load the model with ``bos=True``.

    Attributes:
        reduction: mean or sum over the tokens, or between.
        include_suffix: also count the tokens of the suffix, which then continue the prompt.
        include_end: also count the token that ends a text, so that the prompt is to be a whole
            sentence; it stands behind the suffix.
    """

    reduction: TokenReduction = TokenReduction.MEAN
    include_suffix: Flag = False
    include_end: Flag = False

    type: ClassVar[str] = "fluency"

    def _prepare(self, model: Model) -> Loss:
        return FluencyLoss(self, model)


@register
@options(kw_only=True)
class EnergyLogProbability(_LanguageObjective):
    """The sequence's negative log-probability as an energy of its embeddings.

    ``E(x) = - sum_t [h_t . x_t - log sum_v exp(h_t . e_v)]`` with the hidden state ``h_t`` before
    token t (MuCoLa, Kumar et al. 2022). At a token it equals the negative log-likelihood; the
    gradient of the label is ``- h_t``, without the part of the normalizer. For models whose output
    layer is not the embedding table, ``h_t`` is the embedding gradient that fits the logits best.

    Attributes:
        reduction: sum or mean over the tokens, or between.
    """

    reduction: TokenReduction = TokenReduction.SUM

    type: ClassVar[str] = "energy"

    def _prepare(self, model: Model) -> Loss:
        return _EnergyLoss(self, model)


@register
@options(kw_only=True)
class TokenDivergence(_LanguageObjective):
    """Mean over the tokens of ``KL(p_t || q_t)``, the model's prediction and the soft token.

    ``p_t`` is what the model predicts at position t, and ``q_t = softmax(x_t E^+ / temperature)``
    what the embedding ``x_t`` stands for with the pseudo-inverse of the table ``E`` (the soft
    fluency of COLD, Qin et al. 2022, in embedding space as in FUSE, Williams & Kolter 2024). The
    gradient goes through both.

    Attributes:
        temperature: of the soft token; the smaller, the closer to a hard one.
    """

    temperature: Positive = 1.0

    type: ClassVar[str] = "kl"

    def _prepare(self, model: Model) -> Loss:
        return _TokenDivergenceLoss(self, model)


class _LanguageLoss(Loss):
    """Shared by losses over the tokens of the prompt."""

    uses_labels: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    model: CausalModel

    def __init__(
        self, objective: Objective, model: Model, surroundings: Surroundings | None = None
    ) -> None:
        assert isinstance(model, CausalModel)
        super().__init__(objective, model, surroundings)
        self._start = SharedStart(model)

    @property
    def shares_starts(self) -> bool:
        return self._start.possible

    def predictions(self, batch: Batch) -> int:
        return max(self.stop(batch) - max(batch.start, 1), 0)

    def forget(self) -> None:
        self._start.forget()

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        begin = max(batch.start, 1)
        run = self._start.needed(batch, max(self.stop(batch) - 1, begin))
        own = embeds[:, : run.ids.shape[1]]
        prefix = self._start.of(own, run, logits=True)
        output = self.model.forward(own, run, prefix=prefix, logits_from=begin - 1)
        assert output.logits is not None
        first = output.start + 1
        tokens = self.tokens(output.logits, embeds, batch, labels, first)
        if prefix is not None and prefix.logits is not None and first > begin:
            known = prefix.logits[: first - begin][None]
            row = self.tokens(known, embeds[:1], batch, None, begin)
            tokens = torch.cat([row.expand(len(batch), -1), tokens], dim=1)
            first = begin
        return self.reduce(tokens, self.wanted(batch)[:, first : first + tokens.shape[1]])

    @abstractmethod
    def tokens(
        self, scores: Tensor, embeds: Tensor, batch: Batch, labels: Tensor | None, first: int
    ) -> Tensor:
        """Return the loss of every predicted token.

        Args:
            scores: (b, T or more, V) logits in the model's dtype that predict the tokens from
                position ``first`` on; those behind the last token predict none. They come whole,
                because without the last one they would have to be copied.
            embeds: (b, L, d) of the batch.
            batch: the ids.
            labels: (b, C, V) one-hot content, or None.
            first: position of the first predicted token.

        Returns:
            (b, T).
        """

    def wanted(self, batch: Batch) -> Tensor:
        """(b, L) bool: the tokens that count."""
        return batch.content

    def stop(self, batch: Batch) -> int:
        """Return the position behind the last token that counts."""
        return batch.start + batch.longest

    def reduce(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """Sum or average the wanted tokens of every row: (b, T) -> (b,)."""
        total = torch.where(wanted, tokens, torch.zeros_like(tokens)).sum(dim=1)
        reduction = getattr(self.objective, "reduction", TokenReduction.MEAN)
        if reduction is TokenReduction.SUM:
            return total
        counts = wanted.sum(dim=1).clamp(min=1)
        if reduction is TokenReduction.LENGTH:
            return total / length_penalty(counts)
        return total / counts

    def pick(
        self, scores: Tensor, embeds: Tensor, batch: Batch, labels: Tensor | None, first: int
    ) -> Tensor:
        """Pick the tokens' own scores out of those of all labels, with the label's gradient.

        The value is always that of the token; only the gradient is relaxed. Arguments and result
        are those of :meth:`tokens`.
        """
        end = first + scores.shape[1]
        ids = batch.ids[: len(scores), first:end]
        picked = scores.gather(-1, ids[..., None]).squeeze(-1)
        if labels is not None:
            weights = align_labels(labels, batch, first)[:, : scores.shape[1]]
            own = (weights * scores.detach()).sum(dim=-1)
        elif torch.is_grad_enabled() and embeds.requires_grad:
            direction = label_space(self.model).gradient(scores.detach())
            own = (direction * embeds[:, first:end].float()).sum(dim=-1)
        else:
            return picked
        return picked + (own - own.detach())


def _predictions(scores: Tensor, batch: Batch, first: int) -> Tensor:
    """Leave out logits (b, T, V) that predict what would stand behind the last token."""
    return scores[:, : batch.ids.shape[1] - first]


def _log_probabilities(scores: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of tokens, (b, T, V) logits and (b, C) ids -> (b, min(T, C)) float32.

    A few rows at a time: over all of them the float32 copy would be most of the memory of scoring.
    Predictions behind the last of the ids are left alone, not cut off: the rest would be copied.
    """
    wanted = ids[:, : scores.shape[1], None]
    parts = zip(torch.split(scores, _CHUNK_ROWS), torch.split(wanted, _CHUNK_ROWS), strict=True)
    return torch.cat(
        [
            functional.log_softmax(part, dim=-1, dtype=torch.float32).gather(-1, own).squeeze(-1)
            for part, own in parts
        ]
    )


class FluencyLoss(_LanguageLoss):
    """The loss of :class:`Fluency`."""

    objective: Fluency

    def __init__(
        self, objective: Fluency, model: Model, surroundings: Surroundings | None = None
    ) -> None:
        super().__init__(objective, model, surroundings)
        if objective.include_end:
            end = getattr(model.tokenizer, "eos_token_id", None)
            if end is None:
                raise ModelError(
                    f"{model.name}: its tokenizer has no token that ends a text",
                    expected="one, for include_end",
                    remedy="leave include_end out",
                )
            self.surroundings = self.surroundings.with_end((int(end),))

    @override
    def tokens(
        self, scores: Tensor, embeds: Tensor, batch: Batch, labels: Tensor | None, first: int
    ) -> Tensor:
        if not (torch.is_grad_enabled() and (scores.requires_grad or embeds.requires_grad)):
            return -_log_probabilities(scores, batch.ids[: len(scores), first:])
        scores = _predictions(scores, batch, first)
        log_probs = functional.log_softmax(scores, dim=-1, dtype=torch.float32)
        return -self.pick(log_probs, embeds, batch, labels, first)

    @override
    def stop(self, batch: Batch) -> int:
        behind = self.objective.include_suffix or self.surroundings.end
        return batch.ids.shape[1] if behind else super().stop(batch)

    @override
    def wanted(self, batch: Batch) -> Tensor:
        positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        if self.objective.include_suffix:
            return batch.mask & (positions >= batch.start)
        if self.surroundings.end:
            return batch.content | (positions == batch.last[:, None])
        return batch.content


class _EnergyLoss(_LanguageLoss):
    objective: EnergyLogProbability

    def tokens(
        self, scores: Tensor, embeds: Tensor, batch: Batch, labels: Tensor | None, first: int
    ) -> Tensor:
        scores = _predictions(scores, batch, first).float()
        return scores.logsumexp(dim=-1) - self.pick(scores, embeds, batch, labels, first)


class _TokenDivergenceLoss(_LanguageLoss):
    objective: TokenDivergence

    def tokens(
        self, scores: Tensor, embeds: Tensor, batch: Batch, labels: Tensor | None, first: int
    ) -> Tensor:
        scores = _predictions(scores, batch, first)
        own = label_space(self.model).weights(embeds[:, first : first + scores.shape[1]])
        log_soft = functional.log_softmax(own.float() / self.objective.temperature, dim=-1)
        log_model = functional.log_softmax(scores, dim=-1, dtype=torch.float32)
        return (log_model.exp() * (log_model - log_soft)).sum(dim=-1)
