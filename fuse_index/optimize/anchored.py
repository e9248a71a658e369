"""Predictions that are averaged over anchors: how they are put together, and those of tokens.

The predictions for whole words are in :mod:`fuse_index.optimize.word_gradient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.optimize.anchors import (
    SHARPNESS,
    AnchorAverage,
    AnchorDrawer,
    Anchored,
    AnchorOptions,
)
from fuse_index.optimize.gradient import rows_within
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.optimize.methods.base import Context
    from fuse_index.optimize.state import Ids


def likeness(vectors: Tensor, anchors: Tensor, centre: Tensor | None = None) -> Tensor:
    """Return the cosines of candidates and anchors, both seen from a centre.

    Args:
        vectors: ``(N, d)`` embeddings of the candidates.
        anchors: ``(A, d)`` embeddings of the anchors.
        centre: ``(d,)``; their mean by default.

    Returns:
        ``(A, N)``.
    """
    centre = anchors.mean(dim=0) if centre is None else centre
    units = torch.nn.functional.normalize(anchors - centre, dim=1)
    lengths = (vectors.square().sum(dim=1) - 2 * (vectors @ centre) + centre.square().sum()).clamp(
        min=0
    )
    products = units @ vectors.T - (units @ centre)[:, None]
    return products / lengths.sqrt().clamp(min=1e-12)


def weighted(
    values: Tensor, losses: Tensor, own: Tensor, alike: Tensor, counted: Tensor | None = None
) -> Tensor:
    """Let every candidate weigh the anchors' own linear predictions by its likeness to them.

    Anchor ``i`` predicts ``L_i + g_i . (e_w - e_i)`` for candidate ``w``; the weights are a softmax
    of their likeness times :data:`SHARPNESS`.

    Args:
        values: ``(A, N)``, ``g_i . e_w``.
        losses: ``(A,)``.
        own: ``(A,)``, ``g_i . e_i``.
        alike: ``(A, N)``, :func:`likeness`.
        counted: ``(A,)`` bool, which anchors count; all of them by default.

    Returns:
        ``(N,)``, zeros where no anchor counts.
    """
    predicted = values + (losses - own)[:, None]
    if counted is not None:
        if not bool(counted.any()):
            return torch.zeros_like(values[0])
        predicted, alike = predicted[counted], alike[counted]
    return (torch.softmax(SHARPNESS * alike, dim=0) * predicted).sum(dim=0)


class TokenAnchors:
    """Predicted changes of the loss for tokens, averaged over anchors.

    Args:
        options: how many anchors, and which.
        context: of the run.

    Attributes:
        drawer: draws them.
    """

    def __init__(self, options: AnchorOptions, context: Context) -> None:
        problem = context.problem
        ids = np.flatnonzero(problem.allowed)
        pool = Ragged(np.arange(len(ids) + 1), ids)
        self.drawer = AnchorDrawer(options, context, pool)
        self._options, self._context = options, context
        self._table = problem.source.table().detach()

    def draw(self, ids: Ids, slots: Sequence[int]) -> Anchored:
        """Draw anchors for positions of a prompt."""
        return self.drawer.draw(ids, np.arange(len(ids) + 1), slots)

    def scores(self, drawn: Anchored, slots: Sequence[int]) -> Tensor:
        """Return what is predicted for every token in positions of a prompt.

        It costs a gradient for every anchor.

        Args:
            drawn: the anchors of ``S`` positions.
            slots: the positions.

        Returns:
            ``(S, vocabulary)`` float32 on the source's device, up to a constant a position; lower
            is better.
        """
        gradients, weights = self._context.gradients, self._context.weights
        gradients.spent.gradients += len(drawn.rows)
        every = drawn.slots is None
        values, losses = [], []

        def take(part: slice) -> tuple[Tensor, Tensor]:
            found, scores = gradients.expand(rows_within(drawn.rows, part), weights)
            if drawn.slots is None:
                return found, scores[:, list(slots)].sum(dim=0)
            positions = torch.from_numpy(drawn.slots[part]).to(scores.device)
            return found, scores[torch.arange(len(scores), device=scores.device), positions]

        for _, (found, own) in gradients.rows.map(len(drawn.rows), take):
            losses.append(found)
            values.append(own)
        if every:
            return torch.stack(values).sum(dim=0) / len(drawn.rows)
        packed = torch.cat(values).reshape(len(slots), -1, values[0].shape[1])  # (S, A, V)
        if self._options.anchor_average is AnchorAverage.PLAIN:
            return packed.mean(dim=1)
        return self._weighted(drawn, packed, torch.cat(losses).reshape(len(slots), -1))

    def _weighted(self, drawn: Anchored, values: Tensor, losses: Tensor) -> Tensor:
        """``(S, V)`` from ``(S, A, V)`` and the anchors' losses ``(S, A)``."""
        assert drawn.units is not None
        tokens = torch.from_numpy(self.drawer.pool.values[drawn.units]).to(values.device)
        tokens = tokens.reshape(losses.shape)
        own = values.gather(2, tokens[..., None])[..., 0]
        table = self._table.float()
        rows = [
            weighted(values[i], losses[i], own[i], likeness(table, table[tokens[i]]))
            for i in range(len(values))
        ]
        return torch.stack(rows)

    def embeddings(self, drawn: Anchored) -> Tensor:
        """Return the mean gradient at the source's embeddings.

        It costs a gradient for every anchor.

        Args:
            drawn: the anchors of all ``C`` positions of a prompt.

        Returns:
            ``(C, d_src)`` float32 on the source's device.
        """
        found = self._context.gradients.embeddings(drawn.rows, self._context.weights)
        if drawn.slots is None:
            return found.mean(dim=0)
        slots = torch.from_numpy(drawn.slots).to(found.device)
        own = found[torch.arange(len(found), device=found.device), slots]
        return own.reshape(found.shape[1], -1, found.shape[2]).mean(dim=1)
