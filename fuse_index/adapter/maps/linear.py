"""Linear maps of a word's tokens side by side: any matrix, an isometry, a product of low rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from fuse_index.adapter.maps.base import GroupMap


@dataclass(frozen=True, eq=False)
class BlockMap(GroupMap):
    """``x M``: a block of its own from every source token to every target token.

    Attributes:
        matrix: ``(S, T)``.
    """

    kind: ClassVar[str] = "block"

    matrix: Tensor

    @property
    def source_entries(self) -> int:
        """Source entries of a word."""
        return self.matrix.shape[0]

    def offset(self, source: Tensor) -> Tensor:
        """Return ``x M``."""
        return source @ self.matrix

    def pull_back(self, grad: Tensor, source: Tensor | None) -> Tensor:
        """Return ``g M^T``."""
        del source
        return grad @ self.matrix.T

    def scaled(self, factor: float) -> Self:
        """Return the map with the matrix multiplied by a factor."""
        return replace(self, matrix=self.matrix * factor)


@dataclass(frozen=True, eq=False)
class OrthogonalMap(BlockMap):
    """``x M`` with ``M`` a scale times a partial isometry."""

    kind: ClassVar[str] = "orthogonal"


@dataclass(frozen=True, eq=False)
class LowRankMap(GroupMap):
    """``x L R`` through ``r`` dimensions.

    Attributes:
        left: ``(S, r)``.
        right: ``(r, T)``.
    """

    kind: ClassVar[str] = "low-rank"

    left: Tensor
    right: Tensor

    @property
    def source_entries(self) -> int:
        """Source entries of a word."""
        return self.left.shape[0]

    def offset(self, source: Tensor) -> Tensor:
        """Return ``x L R``."""
        return source @ self.left @ self.right

    def pull_back(self, grad: Tensor, source: Tensor | None) -> Tensor:
        """Return ``g R^T L^T``."""
        del source
        return grad @ self.right.T @ self.left.T

    def scaled(self, factor: float) -> Self:
        """Return the map with the product multiplied by a factor."""
        return replace(self, right=self.right * factor)
