"""Kernel ridge regression on landmark words: a word's tokens follow those of words like it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from fuse_index.adapter.maps.base import GroupMap

_LEAST_NORM = 1e-12


@dataclass(frozen=True, eq=False)
class LocalMap(GroupMap):
    """``k(x) A`` with ``k_i(x) = exp(-s (1 - cos(x - c, l_i)))``, a Gaussian kernel on the sphere.

    The Gaussian kernel of unit vectors ``u`` and ``l``, ``exp(-s |u - l|^2 / 2)``, is this one.
    Source: Saunders, Gammerman & Vovk (1998), "Ridge Regression Learning Algorithm in Dual
    Variables".

    Attributes:
        centre: ``(S,)``, ``c``.
        landmarks: ``(m, S)``, unit vectors ``l_i``.
        coefficients: ``(m, T)``, ``A``.
        sharpness: ``(1,)``, ``s``.
    """

    kind: ClassVar[str] = "local"
    linear: ClassVar[bool] = False

    centre: Tensor
    landmarks: Tensor
    coefficients: Tensor
    sharpness: Tensor

    @property
    def source_entries(self) -> int:
        """Source entries of a word."""
        return self.landmarks.shape[1]

    def offset(self, source: Tensor) -> Tensor:
        """Return ``k(x) A``."""
        units, _ = unit_vectors(source - self.centre)
        return kernel(units, self.landmarks, self.sharpness) @ self.coefficients

    def pull_back(self, grad: Tensor, source: Tensor | None) -> Tensor:
        """Return ``sum_i (A_i . g) s k_i (l_i - cos_i u) / |x - c|``, ``u`` along ``x - c``."""
        assert source is not None
        units, norms = unit_vectors(source - self.centre)
        similar = kernel(units, self.landmarks, self.sharpness)  # (n, m)
        weights = similar * (grad @ self.coefficients.T) * self.sharpness
        along = weights @ self.landmarks  # (n, S)
        across: Tensor = along - (along * units).sum(1, keepdim=True) * units
        return across / norms

    def scaled(self, factor: float) -> Self:
        """Return the map with the coefficients multiplied by a factor."""
        return replace(self, coefficients=self.coefficients * factor)


def unit_vectors(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows divided by their norms ``(n, S)``, and the norms ``(n, 1)``; 0 stays 0."""
    norms = torch.linalg.vector_norm(centred, dim=1, keepdim=True).clamp(min=_LEAST_NORM)
    return centred / norms, norms


def kernel(units: Tensor, landmarks: Tensor, sharpness: Tensor | float) -> Tensor:
    """Return ``exp(-s (1 - cos))`` of unit vectors: ``(n, S)`` and ``(m, S)`` to ``(n, m)``."""
    return ((units @ landmarks.T - 1) * sharpness).exp()
