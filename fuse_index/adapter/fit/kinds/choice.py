"""Fits of one kind, and the choice among kinds by cross-validation."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from fuse_index.adapter.fit.kinds.linear import fit_block, fit_low_rank, fit_orthogonal
from fuse_index.adapter.fit.kinds.local import fit_local
from fuse_index.adapter.fit.kinds.mlp import fit_mlp
from fuse_index.adapter.fit.kinds.words import DenseWords
from fuse_index.adapter.fit.options import FitOptions, Kind
from fuse_index.adapter.fit.quality import predict
from fuse_index.adapter.maps import GroupMap

logger = logging.getLogger(__name__)

TRIED = (Kind.AFFINE, Kind.BLOCK, Kind.LOW_RANK, Kind.LOCAL)
"""Kinds that ``auto`` chooses among; ``orthogonal`` and ``mlp`` were the best of no group with 50
words or more (docs/benchmarks.md)."""
_FOLDS = 4
_MOST_TRIED = 4096
"""Words of a group that the choice is made on: the first ones, which are the most frequent."""


def fit_map(words: DenseWords, kind: Kind, options: FitOptions) -> GroupMap:
    """Fit a map that is no t-product."""
    if kind is Kind.BLOCK:
        return fit_block(words, options.ridge)
    if kind is Kind.LOW_RANK:
        return fit_low_rank(words, options.ridge, options.seed)
    if kind is Kind.ORTHOGONAL:
        return fit_orthogonal(words)
    if kind is Kind.LOCAL:
        return fit_local(words, options.landmarks, options.seed)
    assert kind is Kind.MLP
    return fit_mlp(words, options.ridge, options.seed)


def choose_kind(words: DenseWords, options: FitOptions) -> tuple[Kind, dict[str, float]]:
    """Choose a kind by cross-validation; every fold chooses its own ridge, rank and kernel.

    Args:
        words: those that are fitted on.
        options: of the fit.

    Returns:
        The kind with the least error, of equal ones the first of :data:`TRIED`; and the relative
        errors, those of predicting the mean among them.
    """
    words = words.select(slice(0, _MOST_TRIED))
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(options.seed))
    folds = [part.to(words.source.device) for part in order.chunk(_FOLDS)]
    squares: dict[str, float] = {}
    for i, tested in enumerate(folds):
        fitted = words.select(torch.cat(folds[:i] + folds[i + 1 :]))
        truth = words.y[tested]
        guesses = {"mean": fitted.y.mean(0).expand_as(truth)}
        for kind in TRIED:
            guesses[kind.value] = _predicted(kind, fitted, words.select(tested), options)
        for name, guess in guesses.items():
            squares[name] = squares.get(name, 0.0) + float((guess - truth).square().sum())
    energy = float(words.y.square().sum()) or 1.0
    errors = {name: round((own / energy) ** 0.5, 6) for name, own in squares.items()}
    return min(TRIED, key=lambda kind: errors[kind.value]), errors


def _predicted(kind: Kind, fitted: DenseWords, tested: DenseWords, options: FitOptions) -> Tensor:
    if not kind.is_product:
        return fit_map(fitted, kind, options).apply(tested.x)
    k = max(fitted.source.shape[1], fitted.target.shape[1])
    faces = fitted.solve(options.ridge, k).faces.float()
    away = (tested.source - fitted.source.mean(0)).transpose(0, 1)
    out = predict(faces, away, tested.target.shape[1]).transpose(0, 1)
    return (out + fitted.target.mean(0)).flatten(1)
