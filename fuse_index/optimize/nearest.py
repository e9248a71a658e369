"""The tokens of the source whose embeddings are nearest to points between them."""

from __future__ import annotations

import math
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.optimize.problem import Problem

_ROWS = 8192
"""Embeddings compared at once."""
_POINTS = 2048
"""Points compared at once."""
_SAMPLE = 1024
"""Tokens whose neighbours are looked for to tell how far neighbours are."""


class Distance(str, Enum):
    """How near an embedding is."""

    EUCLIDEAN = "euclidean"
    COSINE = "cosine"


class NearestTokens:
    """Projects points of the source's embedding space to its tokens.

    Args:
        problem: whose tokens; only those that may be used count.
        distance: which token is the nearest.

    Attributes:
        ids: ``(m,)`` int64 on the CPU, the tokens that may be used.
        rows: ``(m, d)``, their embeddings.
    """

    def __init__(self, problem: Problem, distance: Distance) -> None:
        table = problem.source.table().detach()
        self.ids = torch.from_numpy(problem.allowed).nonzero()[:, 0]
        self.rows = table[self.ids.to(table.device)]
        self.distance = distance
        norms = torch.cat([part.float().norm(dim=1) for part in torch.split(self.rows, _ROWS)])
        self._norms: Tensor = norms

    def __call__(self, points: Tensor) -> Tensor:
        """Return the nearest token of each point; of equally near ones the first.

        Args:
            points: ``(n, d)``.

        Returns:
            ``(n,)`` int64 on the CPU.
        """
        points = points.to(self.rows.device)
        parts = [self._best(part.float())[1] for part in torch.split(points, _POINTS)]
        return self.ids[torch.cat(parts).cpu()] if parts else self.ids[:0]

    @cached_property
    def scale(self) -> float:
        """Root mean square of the embeddings' entries."""
        return math.sqrt(float(self._norms.square().mean()) / self.rows.shape[1])

    @cached_property
    def neighbour_distance(self) -> float:
        """Median Euclidean distance of a token to its nearest neighbour, over up to 1024 tokens.

        0 where there is no neighbour, or half of the tokens have equals.
        """
        count = len(self.ids)
        if count < 2:
            return 0.0
        sample = torch.linspace(0, count - 1, min(count, _SAMPLE), device=self.rows.device).long()
        nearest = self._best(self.rows[sample].float(), but=sample)[1]
        apart = self.rows[sample].double() - self.rows[nearest].double()
        return float(apart.norm(dim=1).median())

    def _best(self, points: Tensor, but: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Score and row of the nearest token, for float32 points; rows ``but`` do not count."""
        best = points.new_full((len(points),), -torch.inf)
        found = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        for begin in range(0, len(self.rows), _ROWS):
            norms = self._norms[begin : begin + _ROWS]
            scores = points @ self.rows[begin : begin + _ROWS].float().T
            if self.distance is Distance.COSINE:
                scores /= norms.clamp(min=torch.finfo(torch.float32).tiny)
            else:
                scores -= norms.square() / 2
            if but is not None:
                here = ((but >= begin) & (but < begin + len(norms))).nonzero()[:, 0]
                scores[here, but[here] - begin] = -torch.inf
            values, rows = scores.max(dim=1)
            better = values > best
            best = torch.where(better, values, best)
            found = torch.where(better, rows + begin, found)
        return best, found
