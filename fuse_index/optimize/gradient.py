"""The gradient of the whole problem, in the source's tokens.

Every term's gradient is taken at its model's own embeddings of the same text. Models with other
tokens send it back through their adapter; models with the same tokens need none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.errors import LossError, OptionError
from fuse_index.objectives.base import require_finite
from fuse_index.objectives.labels import content_rows, label_space, one_hot_content
from fuse_index.optimize.batching import BatchSize
from fuse_index.optimize.budget import Spent
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from fuse_index.models.batch import Batch
    from fuse_index.objectives.base import Loss
    from fuse_index.optimize.problem import Problem
    from fuse_index.optimize.reader import Reader, Reading
    from fuse_index.optimize.state import Losses

Checks = list["Callable[[], None]"]
"""Checks that are made later, together."""

_CPU_ROWS = 16
_GPU_ROWS = 128
"""Prompts of one backward pass, which keeps what the forward pass of every layer computed."""


@dataclass(frozen=True, eq=False)
class TermGradient:
    """The gradient of one term at some prompts.

    Attributes:
        losses: ``(b,)``.
        embeddings: ``(b, C, d_src)`` with respect to the source's embeddings, or None.
        tokens: ``(b, C, vocabulary)`` with respect to the source's one-hot tokens, where that is
            more than the embeddings say, or None.
    """

    losses: Tensor
    embeddings: Tensor | None
    tokens: Tensor | None


@dataclass(frozen=True, eq=False)
class Put:
    """Embeddings that stand for one content token of every row.

    Attributes:
        positions: ``(b,)`` int64, which content token.
        vectors: ``(b, width)`` or ``(width,)``.
    """

    positions: NDArray[np.int64]
    vectors: Tensor


class Differentiator:
    """Takes gradients of a problem.

    Args:
        problem: the terms; those without a gradient take no part.
        spent: where gradients are counted.
        batch_size: prompts of one forward pass, at most; of a backward pass there are no more.

    Attributes:
        terms: which terms of the problem have a gradient and a weight.
        rows: prompts of one backward pass, learned as it goes.
    """

    def __init__(self, problem: Problem, spent: Spent, *, batch_size: int | None = None) -> None:
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
            problem.readers[i].require_adapter()

    def tokens(self, prompts: Ragged, weights: Losses) -> Tensor:
        """Return the first-order change of the total loss for every token in every position.

        Args:
            prompts: ``b`` rows of source ids, of at most ``C`` tokens.
            weights: ``(terms,)``.

        Returns:
            ``(b, C, vocabulary)`` float32 on the source's device, up to a constant a position;
            lower is better. Rows past a prompt's end are zero.

        Raises:
            LossError: a gradient is not finite.
        """
        return self._by_rows(prompts, lambda part: self.expand(part, weights)[1])

    def expand(self, prompts: Ragged, weights: Losses) -> tuple[Tensor, Tensor]:
        """Return the losses and what :meth:`tokens` does, in one pass that counts nothing.

        Args:
            prompts: ``b`` rows of source ids, of at most ``C`` tokens; no more than fit at once.
            weights: ``(terms,)``.

        Returns:
            ``(b,)`` float32, the weighted losses of the terms with a gradient, and
            ``(b, C, vocabulary)`` float32, both on the source's device.
        """
        losses, embeddings, tokens = self._sums(prompts, weights, one_hot=True)
        if embeddings is not None:
            through = (embeddings.to(self._table.dtype) @ self._table.T).float()
            tokens = through if tokens is None else tokens.add_(through)
        assert tokens is not None
        return losses, tokens

    def embeddings(self, prompts: Ragged, weights: Losses) -> Tensor:
        """Return the gradient of the total loss at the source's embeddings.

        Args:
            prompts: ``b`` rows of source ids, of at most ``C`` tokens.
            weights: ``(terms,)``.

        Returns:
            ``(b, C, d_src)`` float32 on the source's device.

        Raises:
            LossError: a gradient is not finite.
        """
        return self._by_rows(prompts, lambda part: self._embeddings(part, weights))

    def norms(self, prompts: Ragged) -> list[float]:
        """Return the length of every term's own gradient in token space, 0 where it has none.

        Args:
            prompts: ``b`` rows; the lengths are averaged over them.
        """
        self.spent.gradients += len(prompts)
        lengths = [0.0] * len(self.problem.losses)
        for i in self.terms:
            alone = np.zeros(len(lengths))
            alone[i] = 1.0
            scores = self.expand(prompts, alone)[1]
            lengths[i] = float(scores.flatten(1).norm(dim=1).mean())
        return lengths

    def _by_rows(self, prompts: Ragged, take: Callable[[Ragged], Tensor]) -> Tensor:
        self.spent.gradients += len(prompts)
        longest = int(prompts.lengths.max(initial=0))
        parts = []
        taken = self.rows.map(len(prompts), lambda rows: take(rows_within(prompts, rows)))
        for _, part in taken:
            missing = longest - part.shape[1]
            parts.append(torch.nn.functional.pad(part, (0, 0, 0, missing)) if missing else part)
        return torch.cat(parts)

    def _embeddings(self, prompts: Ragged, weights: Losses) -> Tensor:
        _, embeddings, tokens = self._sums(prompts, weights, one_hot=False)
        if tokens is not None:
            # the embedding gradient that fits the tokens' best
            through = label_space(self.problem.source).gradient(tokens)
            embeddings = through if embeddings is None else embeddings + through
        assert embeddings is not None
        return embeddings

    def _sums(
        self, prompts: Ragged, weights: Losses, *, one_hot: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        readings: dict[int, Reading] = {}
        embeddings: Tensor | None = None
        tokens: Tensor | None = None
        checks: Checks = []
        device = self.problem.source.device
        losses = torch.zeros(len(prompts), device=device)
        for i in self.terms:
            weight = float(weights[i])
            if not weight:
                continue
            loss, reader = self.problem.losses[i], self.problem.readers[i]
            if id(reader) not in readings:
                readings[id(reader)] = reader.read(prompts)
            reading = readings[id(reader)]
            found = _term_gradient(loss, reader, reading, prompts, checks, one_hot=one_hot)
            losses += weight * found.losses.to(losses)
            if found.embeddings is not None:
                part = weight * found.embeddings.to(device)
                embeddings = part if embeddings is None else embeddings + part
            if found.tokens is not None:
                part = weight * found.tokens.to(device)
                tokens = part if tokens is None else tokens + part
        for check in checks:  # only now, because each waits for the GPU
            check()
        return losses, embeddings, tokens


def _term_gradient(
    loss: Loss,
    reader: Reader,
    reading: Reading,
    prompts: Ragged,
    checks: Checks,
    *,
    one_hot: bool,
) -> TermGradient:
    """The gradient of one term at prompts, for the source."""
    if reader.is_source and one_hot and loss.uses_labels:
        losses, gradient = one_hot_gradient(loss, reading.contents, checks)
        return TermGradient(losses, None, gradient)
    losses, packed = embedding_gradient(loss, reading.contents, checks=checks)
    if reader.is_source:
        return TermGradient(losses, padded_rows(packed, prompts), None)
    if reader.same_tokens:
        table = loss.model.table()
        scores = (packed.to(table.dtype) @ table.T).float()
        return TermGradient(losses, None, padded_rows(scores, prompts))
    layout = reader.layout(reading)
    assert reader.adapter is not None
    pulled = reader.adapter.pull_back(packed, layout)
    return TermGradient(losses, padded_rows(pulled, prompts), None)


def embedding_gradient(
    loss: Loss,
    contents: Sequence[Sequence[int]] | Ragged,
    put: Put | None = None,
    checks: Checks | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a term's losses and their gradients at its model's embeddings of the content.

    Args:
        loss: the term.
        contents: ``b`` rows of the model's token ids.
        put: other embeddings for one token of every row.
        checks: where the check that they are finite is added, instead of being made here.

    Returns:
        ``(b,)`` losses and ``(tokens, width)`` float32, the rows packed one after another.

    Raises:
        LossError: a loss or a gradient is not finite.
    """
    batch, embeds = embedded(loss, contents, put)

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
    loss: Loss, contents: Sequence[Sequence[int]] | Ragged, put: Put | None = None
) -> tuple[Batch, Tensor]:
    """Return a term's batch and its embeddings ``(b, L, width)``, with some put in."""
    batch = loss.batch(contents)
    embeds = loss.model.embed(batch.ids)
    if put is not None:
        rows = torch.arange(len(batch), device=embeds.device)
        positions = torch.from_numpy(put.positions).to(embeds.device) + batch.start
        embeds[rows, positions] = put.vectors.to(embeds)
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
