"""Fits kernel ridge regression, on all words of a group or on landmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse_index.adapter.fit.kinds.words import DenseWords
from fuse_index.adapter.maps.local import LocalMap, kernel, unit_vectors

SHARPNESS = (1.0, 2.0, 4.0)
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_SAMPLE = 768
"""Words that sharpness and penalty are chosen on."""
_ROWS = 2048
_JITTER = 1e-6


def fit_local(words: DenseWords, landmarks: int, seed: int) -> LocalMap:
    """Fit kernel ridge regression; sharpness and penalty have the least leave-one-out error.

    Args:
        words: of a group.
        landmarks: most of them; with more words than these it is the Nystrom approximation.
        seed: decides which words are drawn.
    """
    x, y = words.x, words.y
    centre, mean = x.mean(0), y.mean(0)
    units, _ = unit_vectors(x - centre)
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))
    order = order.to(x.device)
    sample = order[:_SAMPLE]
    sharpness, penalty = _choose(units[sample], y[sample] - mean)
    if len(units) <= landmarks:
        chosen, found = units, _exact(units, y - mean, sharpness, penalty)
    else:
        chosen = units[order[:landmarks]]
        found = _nystrom(units, y - mean, chosen, sharpness, penalty)
    return LocalMap(
        mean.view(words.target.shape[1:]),
        centre,
        chosen.contiguous(),
        found.contiguous(),
        x.new_tensor([sharpness]),
    )


def _choose(units: Tensor, values: Tensor) -> tuple[float, float]:
    """Return sharpness and penalty of the least leave-one-out error, in closed form.

    The residual of a word that is left out is ``A_i / (K + l)^-1_ii``. Source: Wahba (1990),
    "Spline Models for Observational Data", section 4.2.
    """
    best = (torch.inf, SHARPNESS[0], PENALTIES[0])
    for sharpness in SHARPNESS:
        sizes, vectors = torch.linalg.eigh(kernel(units, units, sharpness).double())
        turned = vectors.T @ values.double()
        for penalty in PENALTIES:
            inverse = 1 / (sizes.clamp(min=0) + penalty)
            diagonal = vectors.square() @ inverse
            residuals = (vectors @ (inverse[:, None] * turned)) / diagonal[:, None]
            best = min(best, (float(residuals.square().sum()), sharpness, penalty))
    return best[1:]


def _exact(units: Tensor, values: Tensor, sharpness: float, penalty: float) -> Tensor:
    system = kernel(units, units, sharpness)
    system.diagonal().add_(penalty)
    return torch.cholesky_solve(values, torch.linalg.cholesky(system))


def _nystrom(
    units: Tensor, values: Tensor, landmarks: Tensor, sharpness: float, penalty: float
) -> Tensor:
    """Minimize ``|K_nm A - Y|^2 + penalty tr(A^T K_mm A)``, whose solution is on the landmarks."""
    among = kernel(landmarks, landmarks, sharpness)
    gram = penalty * among
    right = values.new_zeros(len(landmarks), values.shape[1])
    for start in range(0, len(units), _ROWS):
        part = kernel(units[start : start + _ROWS], landmarks, sharpness)
        gram.addmm_(part.T, part)
        right.addmm_(part.T, values[start : start + _ROWS])
    gram.diagonal().add_(_JITTER * float(gram.diagonal().mean()))
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
