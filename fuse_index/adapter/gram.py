"""Transform-domain Gram matrices, accumulated chunk by chunk in float64.

For word tensors ``X`` (source) and ``Y`` (target) of one group, with faces ``X[s]`` of shape
``(n, width)``, the t-product least-squares problem splits after a DFT along the tube into one
matrix problem per face ``f`` (Kilmer & Martin 2011): minimize ``||X_f G_f - Y_f||``. Its solution
needs only ``A_f = X_f^H X_f`` and ``B_f = X_f^H Y_f``, sums over words whose size does not depend
on the number of words.

Faces ``f`` and ``k - f`` are conjugates, so only ``0 <= f <= k // 2`` are formed. Faces ``0`` and
``k / 2`` are real. A complex face ``a + ib`` (against ``c + id``) takes three real products
instead of four (Gauss's trick)::

    T1 = a^T [a, c]     T2 = b^T [b, d]     T3 = (a - b)^T [a + b, c + d]
    [A, B] = (T1 + T2) + i (T3 - T1 + T2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ACCUMULATOR = torch.float64


@dataclass(frozen=True)
class FaceEquations:
    """Normal equations of one face of the half spectrum.

    Attributes:
        gram: ``(n, n)`` float64 or complex128, ``X_f^H X_f``, both triangles.
        cross: ``(n, m)`` of the same dtype, ``X_f^H Y_f``.
        weight: 1, or 2 where the face also stands for its conjugate.
    """

    gram: Tensor
    cross: Tensor
    weight: int


def face_weights(k: int) -> list[int]:
    """Return how many of the ``k`` faces each face of the half spectrum stands for."""
    return [1 if f == 0 or 2 * f == k else 2 for f in range(k // 2 + 1)]


def face_components(tokens: Sequence[Tensor], k: int) -> list[tuple[Tensor, Tensor | None]]:
    """Return the real and imaginary parts of the DFT over tokens, half spectrum.

    Args:
        tokens: ``p <= k`` tensors ``(n, width)``; the others are zero.
        k: tube length.

    Returns:
        One ``(real, imaginary)`` for each face ``0 <= f <= k // 2``; the imaginary part is
        ``None`` where the face is real.
    """
    parts: list[tuple[Tensor, Tensor | None]] = []
    for f, weight in enumerate(face_weights(k)):
        cosines = [math.cos(2 * math.pi * f * s / k) for s in range(len(tokens))]
        sines = [-math.sin(2 * math.pi * f * s / k) for s in range(len(tokens))]
        real = _combine(tokens, cosines)
        parts.append((real, _combine(tokens, sines) if weight == 2 else None))
    return parts


def _combine(tokens: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    total = torch.zeros_like(tokens[0])
    for token, factor in zip(tokens, factors, strict=True):
        rounded = round(factor)
        exact = rounded if abs(factor - rounded) < 1e-12 else factor
        if exact:
            total.add_(token, alpha=exact)
    return total


class GroupGram:
    """Accumulates the normal equations of one word group.

    Args:
        k: tube length.
        source_width: width of the source embeddings.
        target_width: width of the target embeddings.
        device: where to accumulate.
    """

    def __init__(self, k: int, source_width: int, target_width: int, device: torch.device) -> None:
        self.k = k
        self.rows = 0
        self.target_energy = 0.0
        self._weights = face_weights(k)
        self._sums = [
            [
                (
                    torch.zeros(source_width, source_width, dtype=ACCUMULATOR, device=device),
                    torch.zeros(source_width, target_width, dtype=ACCUMULATOR, device=device),
                )
                for _ in range(3 if weight == 2 else 1)
            ]
            for weight in self._weights
        ]

    def add(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """Fold a chunk of words in.

        Args:
            source: at most ``k`` tensors ``(n, source_width)`` float64, one for each token.
            target: at most ``k`` tensors ``(n, target_width)`` float64.
        """
        self.rows += len(source[0])
        self.target_energy += sum(float(token.square().sum()) for token in target)
        x_parts = face_components(source, self.k)
        y_parts = face_components(target, self.k)
        for sums, (a, b), (c, d) in zip(self._sums, x_parts, y_parts, strict=True):
            _accumulate(sums[0], a, a, c)
            if b is not None and d is not None:
                _accumulate(sums[1], b, b, d)
                _accumulate(sums[2], a - b, a + b, c + d)

    def equations(self) -> list[FaceEquations]:
        """Return the normal equations of every face of the half spectrum."""
        faces = []
        for sums, weight in zip(self._sums, self._weights, strict=True):
            if weight == 1:
                faces.append(FaceEquations(*sums[0], weight))
                continue
            gram, cross = (
                torch.complex(t1 + t2, t3 - t1 + t2) for t1, t2, t3 in zip(*sums, strict=True)
            )
            faces.append(FaceEquations(gram, cross, weight))
        return faces


def _accumulate(sums: tuple[Tensor, Tensor], left: Tensor, gram: Tensor, cross: Tensor) -> None:
    sums[0].addmm_(left.T, gram)
    sums[1].addmm_(left.T, cross)
