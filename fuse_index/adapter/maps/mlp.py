"""A matrix and one hidden layer beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from fuse_index.adapter.maps.base import GroupMap


@dataclass(frozen=True, eq=False)
class MlpMap(GroupMap):
    """``x M + tanh((x - c) I + b) O``.

    Attributes:
        matrix: ``(S, T)``, ``M``.
        centre: ``(S,)``, ``c``.
        inner: ``(S, h)``, ``I``.
        bias: ``(h,)``, ``b``.
        outer: ``(h, T)``, ``O``.
    """

    kind: ClassVar[str] = "mlp"
    linear: ClassVar[bool] = False

    matrix: Tensor
    centre: Tensor
    inner: Tensor
    bias: Tensor
    outer: Tensor

    @property
    def source_entries(self) -> int:
        """Source entries of a word."""
        return self.matrix.shape[0]

    def offset(self, source: Tensor) -> Tensor:
        """Return ``x M + tanh((x - c) I + b) O``."""
        return source @ self.matrix + self._hidden(source) @ self.outer

    def pull_back(self, grad: Tensor, source: Tensor | None) -> Tensor:
        """Return ``g M^T + ((g O^T) (1 - tanh^2)) I^T``."""
        assert source is not None
        slope = 1 - self._hidden(source).square()
        return grad @ self.matrix.T + ((grad @ self.outer.T) * slope) @ self.inner.T

    def scaled(self, factor: float) -> Self:
        """Return the map with matrix and hidden layer multiplied by a factor."""
        return replace(self, matrix=self.matrix * factor, outer=self.outer * factor)

    def _hidden(self, source: Tensor) -> Tensor:
        return torch.tanh((source - self.centre) @ self.inner + self.bias)
