"""How likely the source, a causal language model, finds tokens in a place of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fuse_index.objectives.language import Fluency, Reduction
from fuse_index.objectives.shared import SharedStart
from fuse_index.optimize.gradient import one_hot_gradient
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.causal import CausalModel
    from fuse_index.optimize.budget import Spent
    from fuse_index.optimize.problem import Problem
    from fuse_index.optimize.state import Ids

_ROWS = 16
"""Prompts of one pass."""


class Likelihood:
    """Log-probabilities of tokens in prompts of a problem.

    The prompts follow the prefix that the first objective asked of the source has, so that they
    continue what they will stand behind.

    Args:
        problem: whose prompts.
        source: its source.
        spent: where passes are counted.
    """

    def __init__(self, problem: Problem, source: CausalModel, spent: Spent) -> None:
        self.source = source
        self.spent = spent
        own = (loss for loss in problem.losses if loss.model is source)
        self._before, self._after = next((loss.surroundings() for loss in own), ("", ""))
        self._start = SharedStart(source)

    def next_tokens(self, prompts: Sequence[Ids]) -> Tensor:
        """Return what the source expects behind prompts.

        It costs one forward pass a prompt, without a gradient (``Spent.predicted``).

        Args:
            prompts: ``b`` rows of source ids, none empty.

        Returns:
            ``(b, V)`` float32 log-probabilities on the CPU.
        """
        self.spent.predicted += len(prompts)
        parts = [
            self._next_tokens(prompts[begin : begin + _ROWS])
            for begin in range(0, len(prompts), _ROWS)
        ]
        return torch.cat(parts)

    def along(self, prompt: Ids) -> Tensor:
        """Return what the source expects in every position of a prompt and behind it.

        It costs one forward pass, without a gradient (``Spent.predicted``).

        Args:
            prompt: ``L`` source ids, at least one.

        Returns:
            ``(L + 1, V)`` float32 log-probabilities on the CPU; those of a first token that
            nothing stands before are all 0.
        """
        self.spent.predicted += 1
        source = self.source
        with torch.no_grad():
            batch = source.batch([prompt], self._before)
            begin = max(batch.start - 1, 0)
            output = source.forward(source.embed(batch.ids), batch, logits_from=begin)
            assert output.logits is not None
            end = batch.start + len(prompt) - output.start
            logits = output.logits[0, begin - output.start : end].float()
            expected = torch.log_softmax(logits, dim=-1).cpu()
        missing = len(prompt) + 1 - len(expected)
        return torch.nn.functional.pad(expected, (0, 0, missing, 0))

    def tokens_within(self, prompts: Sequence[Ids], position: int) -> Tensor:
        """Return how likely prompts are with other tokens in a position, given both sides.

        The probability of the token itself is exact; what it changes about the tokens behind it is
        taken to first order. It costs one gradient a prompt (``Spent.gradients``).

        Args:
            prompts: ``b`` rows of source ids.
            position: which token, from 0.

        Returns:
            ``(b, V)`` float32 log-probabilities on the CPU, up to a constant a prompt.
        """
        self.spent.gradients += len(prompts)
        objective = Fluency(prefix=self._before, suffix=self._after, reduction=Reduction.SUM)
        loss = objective.prepare(self.source)
        parts = []
        for begin in range(0, len(prompts), _ROWS):
            rows = Ragged.from_lists(prompts[begin : begin + _ROWS])
            parts.append(-one_hot_gradient(loss, rows)[1][:, position].cpu())
        return torch.cat(parts)

    def _next_tokens(self, prompts: Sequence[Ids]) -> Tensor:
        source = self.source
        with torch.no_grad():
            batch = source.batch(prompts, self._before)
            embeds = source.embed(batch.ids)
            prefix = self._start.of(embeds, batch)
            output = source.forward(embeds, batch, prefix=prefix, logits_from=batch.shortest - 1)
            assert output.logits is not None
            rows = torch.arange(len(batch), device=batch.ids.device)
            logits = output.logits[rows, batch.last - output.start]
            return torch.log_softmax(logits.float(), dim=-1).cpu()
