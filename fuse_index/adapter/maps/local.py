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
    """``k(x) A + (sum of tokens) F``, with a Gaussian kernel on the sphere.

    It is ``k_i(x) = exp(-s (1 - cos(x - c, l_i)))``.
    The Gaussian kernel of unit vectors ``u`` and ``l``, ``exp(-s |u - l|^2 / 2)``, is this one.
    Source: Saunders, Gammerman & Vovk (1998), "Ridge Regression Learning Algorithm in Dual
    Variables".

    Attributes:
        centre: ``(S,)``, ``c``.
        landmarks: ``(m, S)``, unit vectors ``l_i``.
        coefficients: ``(m, T)``, ``A``.
        sharpness: ``(1,)``, ``s``.
        shared: ``(d_src, d_tgt)``, ``F``: the part of every target token that comes from the sum
            of the source tokens, whichever they are.
    """

    kind: ClassVar[str] = "local"
    linear: ClassVar[bool] = False

    centre: Tensor
    landmarks: Tensor
    coefficients: Tensor
    sharpness: Tensor
    shared: Tensor

    @property
    def source_entries(self) -> int:
        """Source entries of a word."""
        return self.landmarks.shape[1]

    def offset(self, source: Tensor) -> Tensor:
        """Return ``k(x) A + (sum of tokens) F``."""
        units, _ = unit_vectors(source - self.centre)
        near = kernel(units, self.landmarks, self.sharpness) @ self.coefficients
        return near + shared_part(source, self.shared, len(self.intercept))

    def pull_back(self, grad: Tensor, source: Tensor | None) -> Tensor:
        """Return the gradient of both parts.

        The first is ``sum_i (A_i . g) s k_i (l_i - cos_i u) / |x - c|``, ``u`` along ``x - c``.
        """
        assert source is not None
        units, norms = unit_vectors(source - self.centre)
        similar = kernel(units, self.landmarks, self.sharpness)  # (n, m)
        weights = similar * (grad @ self.coefficients.T) * self.sharpness
        along = weights @ self.landmarks  # (n, S)
        across: Tensor = along - (along * units).sum(1, keepdim=True) * units
        return across / norms + shared_part(grad, self.shared.T, self._tokens)

    def scaled(self, factor: float) -> Self:
        """Return the map with the coefficients multiplied by a factor."""
        coefficients, shared = self.coefficients * factor, self.shared * factor
        return replace(self, coefficients=coefficients, shared=shared)

    @property
    def _tokens(self) -> int:
        return self.source_entries // self.shared.shape[0]


def shared_part(tokens: Tensor, matrix: Tensor, count: int) -> Tensor:
    """Return ``count`` times the sum of a word's tokens, mapped: ``(n, S)`` to ``(n, count * w)``.

    Args:
        tokens: ``(n, S)``, of the matrix's rows each.
        matrix: ``(S / tokens, w)``.
        count: tokens of the result.
    """
    summed = tokens.reshape(len(tokens), -1, matrix.shape[0]).sum(1)
    return (summed @ matrix).repeat(1, count)


def unit_vectors(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows divided by their norms ``(n, S)``, and the norms ``(n, 1)``; 0 stays 0."""
    norms = torch.linalg.vector_norm(centred, dim=1, keepdim=True).clamp(min=_LEAST_NORM)
    return centred / norms, norms


def kernel(units: Tensor, landmarks: Tensor, sharpness: Tensor | float) -> Tensor:
    """Return ``exp(-s (1 - cos))`` of unit vectors: ``(n, S)`` and ``(m, S)`` to ``(n, m)``."""
    return ((units @ landmarks.T - 1) * sharpness).exp()
