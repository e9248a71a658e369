"""Fits kernel ridge regression on the words of a group."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fuse_index.adapter.fit.kinds.words import DenseWords
from fuse_index.adapter.maps.local import LocalMap, kernel, unit_vectors

SHARPNESS = (1.0, 2.0, 4.0)
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_SAMPLE = 512
"""Words that sharpness and penalty are chosen on."""


def fit_local(words: DenseWords, landmarks: int, seed: int) -> LocalMap:
    """Fit kernel ridge regression; sharpness and penalty have the least leave-one-out error.

    Args:
        words: of a group, the most frequent first.
        landmarks: most words that count: the first ones, which are fitted exactly. (The Nystrom
            approximation with as many landmarks and all words is hardly better and takes far
            longer.)
        seed: decides which words sharpness and penalty are chosen on.
    """
    words = words.select(slice(0, landmarks))
    x, y = words.x, words.y
    centre, mean = x.mean(0), y.mean(0)
    units, _ = unit_vectors(x - centre)
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))
    sample = order[:_SAMPLE].to(x.device)
    choose = partial(_leave_one_out, units[sample], y[sample] - mean)
    _, sharpness, penalty = min(words.workers.map(choose, SHARPNESS))
    system = kernel(units, units, sharpness)
    system.diagonal().add_(penalty)
    found = torch.cholesky_solve(y - mean, torch.linalg.cholesky(system))
    shared = x.new_zeros(words.source.shape[2], words.target.shape[2])
    intercept = mean.view(words.target.shape[1:])
    return LocalMap(intercept, centre, units, found, x.new_tensor([sharpness]), shared)


def _leave_one_out(units: Tensor, values: Tensor, sharpness: float) -> tuple[float, float, float]:
    """Return the least leave-one-out error, in closed form, with sharpness and penalty.

    The residual of a word that is left out is ``A_i / (K + l)^-1_ii``. Source: Wahba (1990),
    "Spline Models for Observational Data", section 4.2.
    """
    found = []
    sizes, vectors = torch.linalg.eigh(kernel(units, units, sharpness).double())
    turned = vectors.T @ values.double()
    for penalty in PENALTIES:
        inverse = 1 / (sizes.clamp(min=0) + penalty)
        diagonal = vectors.square() @ inverse
        residuals = (vectors @ (inverse[:, None] * turned)) / diagonal[:, None]
        found.append((float(residuals.square().sum()), sharpness, penalty))
    return min(found)
