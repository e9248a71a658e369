"""The gradient of one loss: at its model's embeddings, at one-hot tokens, or at labels alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import LossError
from fuse_index.models.batch import Batch
from fuse_index.models.branches import scaled_branches
from fuse_index.objectives.base import Loss, require_finite
from fuse_index.objectives.labels import content_rows, one_hot_content
from fuse_index.words.ragged import Ragged

Checks = list["Callable[[], None]"]
"""Checks that are made later, together."""


@dataclass(frozen=True, eq=False)
class EmbeddingOverride:
    """Embeddings that replace those of one content token of every row.

    Attributes:
        positions: ``(b,)`` int64, which content token.
        vectors: ``(b, width)`` or ``(width,)``.
    """

    positions: NDArray[np.int64]
    vectors: Tensor


def embedding_gradient(
    loss: Loss,
    contents: Sequence[Sequence[int]] | Ragged,
    override: EmbeddingOverride | None = None,
    checks: Checks | None = None,
    residual_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return a term's losses and their gradients at its model's embeddings of the content.

    Args:
        loss: the term.
        contents: ``b`` rows of the model's token ids.
        override: other embeddings for one token of every row.
        checks: where the check that they are finite is added, instead of being made here.
        residual_scale: factor of the gradient through residual branches.

    Returns:
        ``(b,)`` losses and ``(tokens, width)`` float32, the rows packed one after another.

    Raises:
        LossError: a loss or a gradient is not finite.
    """
    batch, embeds = embedded(loss, contents, override)

    def run(embeds: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        embeds = embeds.detach().requires_grad_()
        with torch.enable_grad(), residual_gradient(loss, residual_scale):
            losses = loss(embeds, batch)
            (gradient,) = torch.autograd.grad(losses.sum(), embeds)
        return losses.detach(), gradient

    losses, gradient = loss.graphs.run(_pass("gradient", residual_scale), run, embeds, batch)
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


def residual_gradient(loss: Loss, scale: float) -> AbstractContextManager[None]:
    """Return a context in which gradients of a loss's model are scaled in its residual branches.

    Raises:
        ModelError: the model's branches cannot be told apart.
    """
    return scaled_branches(() if scale == 1 else loss.model.branches, scale)


def _pass(name: str, residual_scale: float) -> str:
    """The name of a pass, which tells what a recording of it holds."""
    return name if residual_scale == 1 else f"{name}, residual scale {residual_scale}"


def one_hot_gradient(
    loss: Loss, contents: Ragged, checks: Checks | None = None, residual_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return a term's losses and their gradients at its model's one-hot tokens.

    Args:
        loss: the term.
        contents: ``b`` rows of the model's token ids, of at most ``C`` tokens.
        checks: where the check that they are finite is added, instead of being made here.
        residual_scale: factor of the gradient through residual branches.

    Returns:
        ``(b,)`` losses and ``(b, C, vocabulary)`` float32.

    Raises:
        LossError: a loss or a gradient is not finite.
    """
    batch = loss.batch(contents)

    def run(_: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.enable_grad(), residual_gradient(loss, residual_scale):
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
        name = _pass("one-hot gradient", residual_scale)
        losses, gradient = loss.graphs.run(name, run, embeds, batch, exact=True)
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
