"""Gradients of losses: at embeddings, at one-hot tokens, and of all terms in the source's tokens.

Every term's gradient is taken at its model's embeddings of the same text. The adapter carries it
back to the source's tokens where the model has other tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.models.batching import BatchSize
from fuse_index.objectives.base import Loss
from fuse_index.objectives.labels import label_space
from fuse_index.predict.joint import Alone
from fuse_index.predict.loss_gradients import Checks, embedding_gradient, one_hot_gradient
from fuse_index.predict.spent import Spent
from fuse_index.predict.target import PromptTerms, Target, TargetPrompts
from fuse_index.predict.weights import Weights, by_weights
from fuse_index.words.ragged import Ragged

_CPU_ROWS = 16
_GPU_ROWS = 128
"""Prompts of one backward pass, which keeps what the forward pass of every layer computed."""


class Gradients:
    """Gradients of all terms together.

    Args:
        problem: the terms; those without a gradient are left out.
        spent: counts the gradients.
        batch_size: prompts of one forward pass, at most; of a backward pass there are no more.

    Attributes:
        terms: which losses of the problem have a gradient and a weight.
        rows: prompts of one backward pass, learned as it goes.
        residual_scale: factor of the gradient through residual branches, 1 as it is.
        joint: makes passes, perhaps with those of other runs.
    """

    residual_scale: float = 1.0

    def __init__(
        self,
        problem: PromptTerms,
        spent: Spent,
        *,
        batch_size: int | None = None,
        joint: Alone | None = None,
    ) -> None:
        self.problem = problem
        self.spent = spent
        self.joint = joint or Alone()
        on_gpu = any(loss.model.device.type == "cuda" for loss in problem.losses)
        rows = _GPU_ROWS if on_gpu else _CPU_ROWS
        self.rows = BatchSize(rows if batch_size is None else min(rows, batch_size))
        self._table: Tensor = problem.source.table().detach()
        self.terms = tuple(
            i
            for i, loss in enumerate(problem.losses)
            if loss.objective.differentiable and loss.objective.weight
        )

    def scaled(self, residual_scale: float) -> Gradients:
        """Return the same with another factor of the gradient through residual branches.

        Args:
            residual_scale: above 0, at most 1 (:mod:`fuse_index.models.branches`).

        Raises:
            ModelError: the branches of a model cannot be told apart.
        """
        if residual_scale != 1:
            for term in self.terms:
                _ = self.problem.losses[term].model.branches
        own = copy.copy(self)
        own.residual_scale = residual_scale
        return own

    def require(self, *, adapters: bool = True) -> None:
        """Refuse a problem whose gradient cannot be taken.

        Args:
            adapters: whether it must come back to the source's tokens.

        Raises:
            OptionError: no term has a gradient, or a model with other tokens has no adapter.
        """
        problem = self.problem
        if not self.terms:
            raise OptionError(
                "a method that follows the gradient, and no objective that has one",
                expected="an objective with a gradient",
                remedy="use the method 'random'",
            )
        for i in self.terms if adapters else ():
            problem.targets[i].require_adapter()

    def tokens(self, prompts: Ragged, weights: Weights, *, counted: bool = True) -> Tensor:
        """Return the first-order change of the total loss for every token in every position.

        Args:
            prompts: ``b`` rows of source ids, of at most ``C`` tokens.
            weights: ``(losses,)``.
            counted: whether the prompts count as spent; not where they are counted with others.

        Returns:
            ``(b, C, vocabulary)`` float32 on the source's device, up to a constant a position;
            lower is better. Rows past a prompt's end are zero.

        Raises:
            LossError: a gradient is not finite.
        """
        if counted:
            self.count(len(prompts), weights)
        return self._by_rows(prompts, lambda part: self._tokens(part, weights))

    def count(self, prompts: int, weights: Weights) -> None:
        """Count the gradients of prompts as spent; operations are counted where they are run.

        Args:
            prompts: prompts whose gradient is taken.
            weights: ``(losses,)``; of those that are items every one counts.
        """
        self.spent.gradients += prompts * self.problem.passes(np.asarray(weights) != 0)

    def _tokens(self, prompts: Ragged, weights: Weights) -> Tensor:
        embeddings, tokens = self._sums(prompts, weights, one_hot=True)
        if embeddings is not None:
            through = (embeddings.to(self._table.dtype) @ self._table.T).float()
            tokens = through if tokens is None else tokens.add_(through)
        assert tokens is not None
        return tokens

    def embeddings(self, prompts: Ragged, weights: Weights) -> Tensor:
        """Return the gradient of the total loss at the source's embeddings.

        Args:
            prompts: ``b`` rows of source ids, of at most ``C`` tokens.
            weights: ``(losses,)``.

        Returns:
            ``(b, C, d_src)`` float32 on the source's device.

        Raises:
            LossError: a gradient is not finite.
        """
        self.count(len(prompts), weights)
        return self._by_rows(prompts, lambda part: self._embeddings(part, weights))

    def norms(self, prompts: Ragged, sums: Sequence[Weights] | None = None) -> list[float]:
        """Return the lengths of gradients in token space, 0 where there is none.

        Args:
            prompts: ``b`` rows; the lengths are averaged over them.
            sums: for each length the weights ``(b, losses)`` of what is summed; by default every
                loss has one, alone.
        """
        size = len(self.problem.losses)
        alone = [np.tile(row, (len(prompts), 1)) for row in np.eye(size)] if sums is None else sums
        self.count(len(prompts), np.sum([own.any(axis=0) for own in alone], axis=0))
        return [self._norm(prompts, own) for own in alone]

    def _norm(self, prompts: Ragged, weights: Weights) -> float:
        kept = np.zeros_like(weights)
        kept[:, self.terms] = weights[:, self.terms]
        lengths = torch.zeros(len(prompts))
        for rows, own in by_weights(kept):
            if own.any():
                found = self._tokens(prompts.select(rows), own).flatten(1).norm(dim=1)
                lengths[torch.from_numpy(rows)] = found.cpu()
        return float(lengths.mean())

    def _by_rows(self, prompts: Ragged, take: Callable[[Ragged], Tensor]) -> Tensor:
        longest = int(prompts.lengths.max(initial=0))
        parts = []
        taken = self.rows.map(len(prompts), lambda rows: take(rows_within(prompts, rows)))
        for _, part in taken:
            missing = longest - part.shape[1]
            parts.append(torch.nn.functional.pad(part, (0, 0, 0, missing)) if missing else part)
        return torch.cat(parts)

    def _embeddings(self, prompts: Ragged, weights: Weights) -> Tensor:
        embeddings, tokens = self._sums(prompts, weights, one_hot=False)
        if tokens is not None:
            # the embedding gradient that fits the tokens' best
            through = label_space(self.problem.source).gradient(tokens)
            embeddings = through if embeddings is None else embeddings + through
        assert embeddings is not None
        return embeddings

    def _sums(
        self, prompts: Ragged, weights: Weights, *, one_hot: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of all terms at embeddings, and at tokens; None where no term has one there."""
        read: dict[Target, TargetPrompts] = {}
        sums: list[Tensor | None] = [None, None]
        checks: Checks = []
        device = self.problem.source.device
        for i in self.terms:
            weight = float(weights[i])
            if not weight:
                continue
            loss, target = self.problem.losses[i], self.problem.targets[i]
            if target not in read:
                read[target] = target.read(prompts)
            found = self._term(loss, target, read[target], prompts, checks, one_hot=one_hot)
            for kind, own in enumerate(found):
                if own is not None:
                    part, known = weight * own.to(device), sums[kind]
                    sums[kind] = part if known is None else known + part
        for check in checks:  # only now, because each waits for the GPU
            check()
        return sums[0], sums[1]

    def _term(
        self,
        loss: Loss,
        target: Target,
        read: TargetPrompts,
        prompts: Ragged,
        checks: Checks,
        *,
        one_hot: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradient of one term: ``(b, C, d_src)`` at embeddings, or ``(b, C, V)``."""
        options: Any = {"checks": checks, "residual_scale": self.residual_scale}
        self.spent.run_gradient(loss, read.contents.lengths)
        if target.is_source and one_hot and loss.uses_labels:
            return None, one_hot_gradient(loss, read.contents, **options)[1]
        _, packed = embedding_gradient(loss, read.contents, **options)
        if target.is_source:
            return padded_rows(packed, prompts), None
        if target.same_tokens:
            table = loss.model.table()
            scores = (packed.to(table.dtype) @ table.T).float()
            return None, padded_rows(scores, prompts)
        layout = target.layout(read)
        assert target.adapter is not None
        source = None if target.adapter.linear else target.source_rows(prompts.values)
        pulled = target.adapter.pull_back(packed, layout, source=source)
        return padded_rows(pulled, prompts), None


def rows_within(prompts: Ragged, rows: slice) -> Ragged:
    """Return a run of rows."""
    return prompts.select(np.arange(rows.start, rows.stop))


def padded_rows(packed: Tensor, prompts: Ragged) -> Tensor:
    """Put packed rows ``(tokens, w)`` of prompts into ``(b, C, w)``, zeros elsewhere."""
    lengths = prompts.lengths
    longest = int(lengths.max(initial=0))
    if len(packed) == len(prompts) * longest:
        return packed.reshape(len(prompts), longest, -1)
    here = torch.from_numpy(np.arange(longest) < lengths[:, None]).to(packed.device)
    out = packed.new_zeros(len(prompts), longest, packed.shape[1])
    out[here] = packed
    return out
