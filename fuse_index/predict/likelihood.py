"""Log-probabilities of tokens in a position of a prompt, by the source, a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fuse_index.errors import ModelError
from fuse_index.models.base import Model
from fuse_index.models.boundaries import surround
from fuse_index.models.causal import CausalModel
from fuse_index.models.surroundings import Surroundings
from fuse_index.objectives.language import Fluency, FluencyLoss, TokenReduction
from fuse_index.objectives.shared import SharedStart
from fuse_index.predict.joint import Alone
from fuse_index.predict.loss_gradients import one_hot_gradient
from fuse_index.predict.spent import Spent
from fuse_index.predict.target import PromptTerms
from fuse_index.words.ragged import Ragged

Ids = tuple[int, ...]

_ROWS = 16
"""Prompts of one pass."""


class Likelihood:
    """Log-probabilities of tokens in prompts.

    The prompts stand between what surrounds them in the source's first objective, as in use.

    Args:
        problem: source and terms.
        spent: counts the passes.
        method: named where the source is refused.
        joint: makes passes, perhaps with those of other runs.

    Raises:
        ModelError: the source is not a causal language model.
    """

    def __init__(
        self, problem: PromptTerms, spent: Spent, method: str, joint: Alone | None = None
    ) -> None:
        source = require_causal(problem.source, method)
        self._joint = joint or Alone()
        self.source = source
        self.spent = spent
        own = (loss.surroundings for loss in problem.losses if loss.model is source)
        self.surroundings: Surroundings = next(own, None) or surround(source)
        self._start = SharedStart(source)

    def next_tokens(self, prompts: Sequence[Ids]) -> Tensor:
        """Return the log-probabilities of the next token behind prompts.

        It costs one forward pass a prompt, without a gradient (``Spent.predicted``).

        Args:
            prompts: ``b`` rows of source ids, none empty.

        Returns:
            ``(b, V)`` float32 log-probabilities on the CPU.
        """
        self._count(prompts)
        key = "next tokens", self.source, self.surroundings.key
        return torch.stack(list(self._joint.rows(key, self._next_rows, list(prompts))))

    def along(self, prompt: Ids) -> Tensor:
        """Return the log-probabilities of tokens in every position of a prompt and behind it.

        It costs one forward pass, without a gradient (``Spent.predicted``).

        Args:
            prompt: ``L`` source ids, at least one.

        Returns:
            ``(L + 1, V)`` float32 log-probabilities on the CPU; all 0 for a first token
            without context.
        """
        self._count([prompt])
        key = "along", self.source, self.surroundings.key
        found: Tensor = self._joint.rows(key, self._along, [prompt])[0]
        return found

    def _along(self, prompts: Sequence[Ids]) -> list[Tensor]:
        source, found = self.source, []
        with torch.no_grad():
            batch = self.surroundings.beginning(prompts)
            begin = max(batch.start - 1, 0)
            output = source.forward(source.embed(batch.ids), batch, logits_from=begin)
            assert output.logits is not None
            for prompt, own in zip(prompts, output.logits, strict=True):
                end = batch.start + len(prompt) - output.start
                logits = own[begin - output.start : end].float()
                expected = torch.log_softmax(logits, dim=-1).cpu()
                missing = len(prompt) + 1 - len(expected)
                found.append(torch.nn.functional.pad(expected, (0, 0, missing, 0)))
        return found

    def tokens_within(self, prompts: Sequence[Ids], position: int) -> Tensor:
        """Return the log-probabilities of prompts with other tokens in a position.

        The probability of the token itself is exact; what it changes about the tokens behind it is
        taken to first order. It costs one gradient a prompt (``Spent.gradients``).

        Args:
            prompts: ``b`` rows of source ids.
            position: which token, from 0.

        Returns:
            ``(b, V)`` float32 log-probabilities on the CPU, up to a constant a prompt.
        """
        self.spent.gradients += len(prompts)
        objective = Fluency(reduction=TokenReduction.SUM)
        loss = FluencyLoss(objective, self.source, replace(self.surroundings, end=()))
        self.spent.run_gradient(loss, np.array([len(own) for own in prompts]))
        found = (one_hot_gradient(loss, Ragged.from_lists(own))[1] for own in _parts(prompts))
        return torch.cat([-gradient[:, position].cpu() for gradient in found])

    def _count(self, prompts: Sequence[Ids]) -> None:
        """Count prompts, with what stands before them, as read."""
        self.spent.predicted += len(prompts)
        around = self.surroundings
        before = len(around.frame.head) + len(around.before)
        self.spent.read(self.source, sum(map(len, prompts)) + before * len(prompts))

    def _next_rows(self, prompts: Sequence[Ids]) -> list[Tensor]:
        return [row for own in _parts(prompts) for row in self._next_tokens(own)]

    def _next_tokens(self, prompts: Sequence[Ids]) -> Tensor:
        source = self.source
        with torch.no_grad():
            batch = self.surroundings.beginning(prompts)
            embeds = source.embed(batch.ids)
            prefix = self._start.of(embeds, batch)
            output = source.forward(embeds, batch, prefix=prefix, logits_from=batch.shortest - 1)
            assert output.logits is not None
            rows = torch.arange(len(batch), device=batch.ids.device)
            logits = output.logits[rows, batch.last - output.start]
            return torch.log_softmax(logits.float(), dim=-1).cpu()


def _parts(prompts: Sequence[Ids]) -> list[Sequence[Ids]]:
    """Prompts of one pass each."""
    return [prompts[begin : begin + _ROWS] for begin in range(0, len(prompts), _ROWS)]


def require_causal(source: Model, method: str) -> CausalModel:
    """Return the source if it is a causal language model.

    Raises:
        ModelError: it is not.
    """
    if isinstance(source, CausalModel):
        return source
    raise ModelError(
        f"{method}: {source.name} of kind {source.kind.value!r} as the source",
        expected="a causal language model, which writes the prompt",
        remedy="choose another source, or another method",
    )
