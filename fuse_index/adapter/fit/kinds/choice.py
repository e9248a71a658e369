"""Fits of one kind, and the choice among kinds by cross-validation."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fuse_index.adapter.fit.kinds.linear import fit_block, fit_low_rank, fit_orthogonal
from fuse_index.adapter.fit.kinds.local import fit_local
from fuse_index.adapter.fit.kinds.mlp import fit_mlp
from fuse_index.adapter.fit.kinds.words import DenseWords
from fuse_index.adapter.fit.options import FitOptions, MapKind
from fuse_index.adapter.fit.quality import predict
from fuse_index.adapter.maps import GroupMap
from fuse_index.adapter.maps.linear import BlockMap
from fuse_index.adapter.maps.local import LocalMap, shared_part
from fuse_index.adapter.maps.mlp import MlpMap

TRIED = (MapKind.AFFINE, MapKind.BLOCK, MapKind.LOW_RANK, MapKind.LOCAL)
"""Kinds that ``auto`` chooses among; from SmolLM2 to MiniLM ``orthogonal`` and ``mlp`` were the
best for no group of 50 words or more."""
_FOLDS = 4
_MOST_TRIED = 4096
"""Words of a group that the choice is made on: the first ones, which are the most frequent."""


SHARED = 0.25
"""Share of the fallback's prediction that ``block``, ``local`` and ``mlp`` start from, so that
groups of few words borrow from all words. Of 0, 0.25, 0.5 and 1 the one with the least error on
held-out words for most groups of three pairs of models."""


def fit_map(words: DenseWords, kind: MapKind, options: FitOptions, fallback: Tensor) -> GroupMap:
    """Fit a map that is no t-product.

    Args:
        words: of the group.
        kind: of the map.
        options: of the fit.
        fallback: ``(d_src, d_tgt)``, from the sum of a word's source tokens to each target token.
    """
    shared, q = SHARED * fallback.float(), words.target.shape[1]
    if kind in (MapKind.LOW_RANK, MapKind.ORTHOGONAL):
        return _fit(words, kind, options)
    rest = words.y - shared_part(words.x, shared, q)
    own = _fit(replace(words, target=rest.view_as(words.target)), kind, options)
    if isinstance(own, LocalMap):
        return replace(own, shared=shared)
    assert isinstance(own, (BlockMap, MlpMap))
    tiles = shared.repeat(words.source.shape[1], q)
    return replace(own, matrix=own.matrix + tiles)


def _fit(words: DenseWords, kind: MapKind, options: FitOptions) -> GroupMap:
    if kind is MapKind.BLOCK:
        return fit_block(words, options.ridge)
    if kind is MapKind.LOW_RANK:
        return fit_low_rank(words, options.ridge, options.seed)
    if kind is MapKind.ORTHOGONAL:
        return fit_orthogonal(words)
    if kind is MapKind.LOCAL:
        return fit_local(words, options.landmarks, options.seed)
    assert kind is MapKind.MLP
    return fit_mlp(words, options.ridge, options.seed)


def choose_kind(
    words: DenseWords, options: FitOptions, fallback: Tensor
) -> tuple[MapKind, dict[str, float]]:
    """Choose a kind by cross-validation; every fold chooses its own ridge, rank and kernel.

    Args:
        words: those that are fitted on.
        options: of the fit.
        fallback: as in :func:`fit_map`.

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
            own = words.select(tested)
            if kind.is_product:
                guesses[kind.value] = _predicted(fitted, own, options)
            else:
                guesses[kind.value] = fit_map(fitted, kind, options, fallback).apply(own.x)
        for name, guess in guesses.items():
            squares[name] = squares.get(name, 0.0) + float((guess - truth).square().sum())
    energy = float(words.y.square().sum()) or 1.0
    errors = {name: round((own / energy) ** 0.5, 6) for name, own in squares.items()}
    return min(TRIED, key=lambda kind: errors[kind.value]), errors


def _predicted(fitted: DenseWords, tested: DenseWords, options: FitOptions) -> Tensor:
    """Predict words by the t-product with an intercept, fitted to others."""
    k = max(fitted.source.shape[1], fitted.target.shape[1])
    faces = fitted.solve(options.ridge, k).faces.float()
    away = (tested.source - fitted.source.mean(0)).transpose(0, 1)
    out = predict(faces, away, tested.target.shape[1]).transpose(0, 1)
    return (out + fitted.target.mean(0)).flatten(1)
