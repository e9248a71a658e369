"""What every map of a word group does: forward, and the exact vector-Jacobian product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class GroupMap(ABC):
    """A map from the source tokens of a word to its target tokens, side by side.

    All tensors are of one floating dtype and device; their shapes are those of
    :data:`~fuse_index.bundle.kinds.FIELDS`, with ``S = p * d_src`` and ``T = q * d_tgt``.

    Attributes:
        intercept: ``(q, d_tgt)``.
    """

    kind: ClassVar[str]
    linear: ClassVar[bool] = True
    """Whether the Jacobian is the same at every word, up to the intercept."""

    intercept: Tensor

    @property
    @abstractmethod
    def source_entries(self) -> int:
        """Source entries of a word, ``S``; shorter words are padded with zeros."""

    def tube(self, width: int) -> int:
        """Return the most tokens of a word that it serves, of either model."""
        return max(self.source_entries // width, self.intercept.shape[0])

    @abstractmethod
    def offset(self, source: Tensor) -> Tensor:
        """Return what is added to the intercept: ``(n, S)`` to ``(n, T)``, differentiable."""

    @abstractmethod
    def pull_back(self, grad: Tensor, source: Tensor | None) -> Tensor:
        """Return the vector-Jacobian product of :meth:`apply`.

        Args:
            grad: ``(n, T)``, gradients of the target tokens.
            source: ``(n, S)``, where the Jacobian is taken; needed if the map is not linear.

        Returns:
            ``(n, S)``.
        """

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """Return the map with everything but the intercept multiplied by a factor."""

    def apply(self, source: Tensor) -> Tensor:
        """Map words: ``(n, S)`` to ``(n, T)``, differentiable."""
        return self.intercept.reshape(1, -1) + self.offset(source)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by the names under which a bundle stores them."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Return the map on a device and in a floating dtype."""
        return replace(
            self, **{name: own.to(device, dtype) for name, own in self.tensors().items()}
        )
