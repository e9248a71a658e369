"""Half of the DFT along the tube of a few tokens, real where it is real.

The faces ``f`` and ``k - f`` of the transform of real tensors are conjugates, so the faces ``0 <= f
<= k // 2`` are enough; faces ``0`` and ``k / 2`` are real.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def face_weights(k: int) -> tuple[int, ...]:
    """Return how many of the ``k`` faces each face of the half spectrum stands for."""
    return tuple(1 if f == 0 or 2 * f == k else 2 for f in range(k // 2 + 1))


def dft_rows(k: int, f: int) -> tuple[list[float], list[float]]:
    """Return the real and imaginary part of row ``f`` of the DFT matrix, exact where it can be."""
    angles = [2 * math.pi * ((f * s) % k) / k for s in range(k)]
    return [_snap(math.cos(x)) for x in angles], [_snap(-math.sin(x)) for x in angles]


def half_spectrum(tokens: Tensor, k: int) -> list[Tensor]:
    """Return the faces ``0 <= f <= k // 2`` of the DFT of ``tokens (p, m, width)``, ``p <= k``.

    Real faces are real, the others complex; each is ``(m, width)``.
    """
    faces = []
    for f, weight in enumerate(face_weights(k)):
        real, imaginary = (
            torch.einsum("s,smn->mn", tokens.new_tensor(row[: len(tokens)]), tokens)
            for row in dft_rows(k, f)
        )
        faces.append(real if weight == 1 else torch.complex(real, imaginary))
    return faces


def from_half_spectrum(faces: list[Tensor], k: int) -> Tensor:
    """Undo :func:`half_spectrum` for ``k`` tokens: ``(k, m, width)``, real."""
    factors, parts = [], []
    for f, (face, weight) in enumerate(zip(faces, face_weights(k), strict=True)):
        cosines, sines = dft_rows(k, f)
        factors.append([weight / k * c for c in cosines])
        parts.append(face.real)
        if weight == 2:
            factors.append([weight / k * s for s in sines])
            parts.append(face.imag)
    stacked = torch.stack([part.flatten() for part in parts])
    mixed = stacked.new_tensor(factors).T @ stacked
    return mixed.view(k, *faces[0].shape)


def _snap(value: float) -> float:
    nearest = round(2 * value) / 2
    return nearest if abs(value - nearest) < 1e-12 else value
