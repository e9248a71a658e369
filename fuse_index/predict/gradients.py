"""Gradients of losses: at embeddings, at one-hot tokens, and of all terms in the source's tokens.

Every term's gradient is taken at its model's embeddings of the same text. The adapter carries it
back to the source's tokens where the model has other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import LossError, OptionError
from fuse_index.models.batch import Batch
from fuse_index.models.batching import BatchSize
from fuse_index.objectives.base import Loss, require_finite
from fuse_index.objectives.labels import content_rows, label_space, one_hot_content
from fuse_index.predict.spent import Spent
from fuse_index.predict.target import PromptTerms, Target, TargetPrompts
from fuse_index.predict.weights import Weights, by_weights
from fuse_index.words.ragged import Ragged

Checks = list["Callable[[], None]"]
"""Checks that are made later, together."""

_CPU_ROWS = 16
_GPU_ROWS = 128
"""Prompts of one backward pass, which keeps what the forward pass of every layer computed."""


@dataclass(frozen=True, eq=False)
class EmbeddingOverride:
    """Embeddings that replace those of one content token of every row.

    Attributes:
        positions: ``(b,)`` int64, which content token.
        vectors: ``(b, width)`` or ``(width,)``.
    """

    positions: NDArray[np.int64]
    vectors: Tensor


class Gradients:
    """Gradients of all terms together.

    Args:
        problem: the terms; those without a gradient are left out.
        spent: counts the gradients.
        batch_size: prompts of one forward pass, at most; of a backward pass there are no more.

    Attributes:
        terms: which losses of the problem have a gradient and a weight.
        rows: prompts of one backward pass, learned as it goes.
    """

    def __init__(
        self, problem: PromptTerms, spent: Spent, *, batch_size: int | None = None
    ) -> None:
        self.problem = problem
        self.spent = spent
        on_gpu = any(loss.model.device.type == "cuda" for loss in problem.losses)
        rows = _GPU_ROWS if on_gpu else _CPU_ROWS
        self.rows = BatchSize(rows if batch_size is None else min(rows, batch_size))
        self._table: Tensor = problem.source.table().detach()
        self.terms = tuple(
            i
            for i, loss in enumerate(problem.losses)
            if loss.objective.differentiable and loss.objective.weight
        )

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
        """Count gradients as spent.

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
            found = _term_gradient(loss, target, read[target], prompts, checks, one_hot=one_hot)
            for kind, own in enumerate(found):
                if own is not None:
                    part, known = weight * own.to(device), sums[kind]
                    sums[kind] = part if known is None else known + part
        for check in checks:  # only now, because each waits for the GPU
            check()
        return sums[0], sums[1]


def _term_gradient(
    loss: Loss,
    target: Target,
    read: TargetPrompts,
    prompts: Ragged,
    checks: Checks,
    *,
    one_hot: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of one term at prompts: ``(b, C, d_src)`` at embeddings, or ``(b, C, V)``."""
    if target.is_source and one_hot and loss.uses_labels:
        return None, one_hot_gradient(loss, read.contents, checks)[1]
    _, packed = embedding_gradient(loss, read.contents, checks=checks)
    if target.is_source:
        return padded_rows(packed, prompts), None
    if target.same_tokens:
        table = loss.model.table()
        scores = (packed.to(table.dtype) @ table.T).float()
        return None, padded_rows(scores, prompts)
    layout = target.layout(read)
    assert target.adapter is not None
    pulled = target.adapter.pull_back(packed, layout)
    return padded_rows(pulled, prompts), None


def embedding_gradient(
    loss: Loss,
    contents: Sequence[Sequence[int]] | Ragged,
    override: EmbeddingOverride | None = None,
    checks: Checks | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a term's losses and their gradients at its model's embeddings of the content.

    Args:
        loss: the term.
        contents: ``b`` rows of the model's token ids.
        override: other embeddings for one token of every row.
        checks: where the check that they are finite is added, instead of being made here.

    Returns:
        ``(b,)`` losses and ``(tokens, width)`` float32, the rows packed one after another.

    Raises:
        LossError: a loss or a gradient is not finite.
    """
    batch, embeds = embedded(loss, contents, override)

    def run(embeds: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        embeds = embeds.detach().requires_grad_()
        with torch.enable_grad():
            losses = loss(embeds, batch)
            (gradient,) = torch.autograd.grad(losses.sum(), embeds)
        return losses.detach(), gradient

    losses, gradient = loss.graphs.run("gradient", run, embeds, batch)
    packed = batch.packed(gradient[:, : embeds.shape[1]]).float()
    _check(partial(require_finite_gradient, losses, packed, loss, batch), checks)
    return losses, packed


def embedded(
    loss: Loss,
    contents: Sequence[Sequence[int]] | Ragged,
    override: EmbeddingOverride | None = None,
) -> tuple[Batch, Tensor]:
    """Return a term's batch and its embeddings ``(b, L, width)``, with some put in."""
    batch = loss.batch(contents)
    embeds = loss.model.embed(batch.ids)
    if override is not None:
        rows = torch.arange(len(batch), device=embeds.device)
        positions = torch.from_numpy(override.positions).to(embeds.device) + batch.start
        embeds[rows, positions] = override.vectors.to(embeds)
    return batch, embeds


def one_hot_gradient(
    loss: Loss, contents: Ragged, checks: Checks | None = None
) -> tuple[Tensor, Tensor]:
    """Return a term's losses and their gradients at its model's one-hot tokens.

    Args:
        loss: the term.
        contents: ``b`` rows of the model's token ids, of at most ``C`` tokens.
        checks: where the check that they are finite is added, instead of being made here.

    Returns:
        ``(b,)`` losses and ``(b, C, vocabulary)`` float32.

    Raises:
        LossError: a loss or a gradient is not finite.
    """
    batch = loss.batch(contents)

    def run(_: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            labels, embeds = one_hot_content(loss.model, batch)
            losses = loss(embeds, batch, labels)
            (gradient,) = torch.autograd.grad(losses.sum(), labels)
        return losses.detach(), gradient.float()

    if not batch.even:  # then the host counts the content
        losses, gradient = run(batch.ids, batch)
        here = content_rows(batch, gradient.shape[1])[..., None]
        gradient = torch.where(here, gradient, torch.zeros_like(gradient))
    else:
        embeds = loss.model.embed(batch.ids)
        losses, gradient = loss.graphs.run("one-hot gradient", run, embeds, batch, exact=True)
    _check(partial(require_finite_gradient, losses, gradient, loss, batch), checks)
    return losses, gradient


def label_gradient(loss: Loss, contents: Ragged) -> Tensor:
    """Return the gradient of a term at its tokens as labels alone, their embeddings held.

    Args:
        loss: a term that uses labels.
        contents: ``b`` rows of the model's token ids, of at most ``C`` tokens.

    Returns:
        ``(b, C, vocabulary)`` float32: what the likelihood of a token in its position adds to the
        change of the loss, exactly.
    """
    batch = loss.batch(contents)
    with torch.enable_grad():
        labels, embeds = one_hot_content(loss.model, batch)
        losses = loss(embeds.detach().requires_grad_(), batch, labels)
        (gradient,) = torch.autograd.grad(losses.sum(), labels)
    return gradient.float()


def _check(check: Callable[[], None], checks: Checks | None) -> None:
    """Make a check, or leave it for later."""
    if checks is None:
        check()
    else:
        checks.append(check)


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


def require_finite_gradient(losses: Tensor, gradient: Tensor, loss: Loss, batch: Batch) -> None:
    """Refuse losses or gradients that are not finite.

    Raises:
        LossError: one is not.
    """
    # one number, because a GPU is waited for each time that one is asked for
    if bool(torch.isfinite(gradient.sum().float() + losses.sum())):
        return
    require_finite(losses, loss, batch)
    if not torch.isfinite(gradient).all():
        text = loss.texts(batch)[0]
        raise LossError(
            f"{loss.name}: its gradient at the prompt {text!r} holds NaN or infinity",
            expected="finite numbers",
            remedy="run the model in float32 or bfloat16",
        )
