"""What changes the ranking of a step before candidates are drawn: momentum, direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fuse_index.predict.ranking import Ranking


class Momentum:
    """Predictions averaged over steps (MAC, Zhang & Wei 2024), for prompts of one length.

    ``m <- mu m + (1 - mu) g`` with ``g`` the mean over the prompts of a step, each of which is
    ranked by what was and its own: ``mu m + (1 - mu) g_i``.

    Args:
        share: ``mu``, of what was before.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._mean: Tensor | None = None

    def carry(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        """Return the rankings of a step with those before, which are remembered.

        Args:
            rankings: of all positions of each prompt.
        """
        shapes = {ranking.changes.shape for ranking in rankings}
        if len(shapes) > 1:
            self._mean = None
            return list(rankings)
        before = self._mean
        mean = torch.stack([ranking.changes for ranking in rankings]).mean(dim=0)
        if before is None or before.shape != mean.shape:
            self._mean = mean
            return list(rankings)
        before = before.to(mean.device)
        self._mean = torch.lerp(mean, before, self._share)
        return [
            Ranking(torch.lerp(own.changes, before, self._share), own.standing) for own in rankings
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs."""
        return {} if self._mean is None else {"momentum": self._mean.cpu()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what :meth:`tensors` returned."""
        self._mean = tensors.get("momentum")


def directed(ranking: Ranking, standing: Tensor, vectors: Tensor, count: int) -> Ranking:
    """Keep the units towards which the loss falls most steeply (TAO, Xu et al. 2026).

    Args:
        ranking: ``(S, N)`` predicted changes.
        standing: ``(S, d)`` vectors of the units that stand in the positions.
        vectors: ``(N, d)`` of all units.
        count: units kept in each position: those with the largest cosine of the way there and the
            steepest descent.
    """
    changes = ranking.changes
    if ranking.standing is None or count >= changes.shape[1]:
        return ranking
    here = ranking.standing.to(changes.device)[:, None]
    at_standing = changes.gather(1, here.clamp(min=0)).where(here >= 0, 0.0)
    way = torch.cdist(standing.float(), vectors.float()).to(changes.device).clamp(min=1e-6)
    slopes = (changes - at_standing) / way
    index = torch.arange(slopes.shape[1], device=slopes.device)
    slopes = slopes.masked_fill(index == here, torch.inf)
    kept = (-slopes).topk(count, dim=1).indices
    left = torch.full_like(changes, torch.inf).scatter(1, kept, changes.gather(1, kept))
    left = left.scatter(
        1, here.clamp(min=0), at_standing.where(here >= 0, left.gather(1, here.clamp(min=0)))
    )
    return Ranking(left, ranking.standing)
