"""Tokens as labels: the other way in which a token of a prompt changes its likelihood.

In ``-log p(x_t | x_<t)`` a token is context of the tokens after it *and* the label of its
position. Automatic differentiation of the usual loss sees the context alone, because a label is an
index. Two relaxations give the missing part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

from fuse_index.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch


_CHUNK_ROWS = 8192
_SPACES: WeakKeyDictionary[Model, LabelSpace] = WeakKeyDictionary()


def one_hot_content(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return one-hot content tokens that require a gradient, and embeddings that depend on them.

    The gradient of a loss with respect to the one-hot rows is what GCG ranks tokens by (Zou et al.
    2023), here through the context and through the label.

    Args:
        model: whose tokens they are.
        batch: b rows with contents of at most C tokens.

    Returns:
        labels: (b, C, vocabulary size) in the model's dtype; rows past a row's content are zero.
        embeds: (b, L, width); content rows are ``labels @ model.table()``.
    """
    longest = batch.longest
    embeds = model.embed(batch.ids).clone()
    if batch.even:  # the content is a rectangle: no mask whose true entries the host has to count
        inside = slice(batch.start, batch.start + longest)
        labels = functional.one_hot(batch.ids[:, inside], model.vocabulary_size).to(model.dtype)
        labels.requires_grad_()
        embeds[:, inside] = labels @ model.table()
        return labels, embeds
    here = content_rows(batch, longest)
    ids = batch.ids.new_zeros((len(batch), longest))
    ids[here] = batch.ids[batch.content]
    labels = functional.one_hot(ids, model.vocabulary_size).to(model.dtype)
    labels = (labels * here[..., None]).requires_grad_()
    embeds[batch.content] = (labels @ model.table())[here]
    return labels, embeds


def content_rows(batch: Batch, longest: int) -> Tensor:
    """(b, longest) bool: which of the first positions of the content each row has."""
    return torch.arange(longest, device=batch.ids.device) < batch.lengths[:, None]


class LabelSpace:
    """Values of labels with a gradient, for the embeddings of one model.

    An embedding ``e`` stands for the label weights ``e E^+``, the least-norm solution of
    ``w E = e`` with the table ``E`` (V, d) and its pseudo-inverse ``E^+ = (E' E)^-1 E'``. Scores
    ``s`` of all labels then have the gradient ``E^+ s`` with respect to ``e``. Where the output
    layer is the table (tied weights) and ``s`` are the logits, this is the hidden state itself,
    which gives the energy of MuCoLa (Kumar et al. 2022).

    Args:
        model: a causal language model.
    """

    def __init__(self, model: Model) -> None:
        table = model.table()
        place = table.device if table.device.type == "cuda" else torch.device("cpu")
        gram = torch.zeros(model.width, model.width, dtype=torch.float64, device=place)
        for rows in torch.split(table, _CHUNK_ROWS):
            part = rows.to(device=place, dtype=torch.float64)
            gram += part.T @ part
        inverse = torch.linalg.pinv(gram, hermitian=True)
        self._table = table
        self._inverse: Tensor = inverse.to(device=table.device, dtype=torch.float32)

    def gradient(self, scores: Tensor) -> Tensor:
        """Return ``E^+ s``: (..., V) scores of labels -> (..., d)."""
        projected: Tensor = scores.to(self._table.dtype) @ self._table
        return projected.float() @ self._inverse

    def weights(self, embeds: Tensor) -> Tensor:
        """Return ``e E^+``: (..., d) embeddings -> (..., V) label weights, differentiable."""
        solved: Tensor = embeds.float() @ self._inverse
        return solved.to(self._table.dtype) @ self._table.T


def label_space(model: Model) -> LabelSpace:
    """Return the label space of a model, made once: it costs the table times itself."""
    if model not in _SPACES:
        _SPACES[model] = LabelSpace(model)
    return _SPACES[model]


def align_labels(labels: Tensor, batch: Batch, first: int) -> Tensor:
    """Put labels (b, C, V) of the content at the positions ``first`` to the end -> (b, T, V).

    Positions without content are zero.

    Raises:
        ShapeError: they are not of this batch.
    """
    rows, length = batch.ids.shape
    longest = batch.longest
    if labels.ndim != 3 or labels.shape[:2] != (rows, longest):
        raise ShapeError(
            f"labels of shape {tuple(labels.shape)}",
            expected=f"({rows}, {longest}, vocabulary size), the contents of the batch",
        )
    here = content_rows(batch, longest)[..., None]
    kept = torch.where(here, labels, torch.zeros_like(labels))[:, max(first - batch.start, 0) :]
    before = max(batch.start - first, 0)
    after = length - first - before - kept.shape[1]
    return functional.pad(kept, (0, 0, before, after))
