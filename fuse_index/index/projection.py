"""Projection to fewer dimensions that keeps inner products with sampled queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SHRINKAGE = 0.2
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Projection:
    """Two linear maps whose images multiply nearly as the originals do.

    Attributes:
        words: ``(width, r)``, for word vectors.
        queries: ``(width, r)``, for queries.
    """

    words: Tensor
    queries: Tensor

    @classmethod
    def fit(cls, rows: Tensor, queries: Tensor, size: int, seed: int) -> Projection:
        """Keep the directions that matter for these queries.

        With ``S`` the second moment of the queries, shrunk towards the identity, ``q . x`` is
        ``(S^-1/2 q) . (S^1/2 x)``, and the mean square of what is lost when ``S^1/2 x`` is cut to
        its first principal directions is the least for queries drawn like these. A random rotation
        spreads what is left evenly, so that each dimension deserves the same number of bits.
        Gradients fill few directions, which makes this worth while (docs/word-index.md).

        Args:
            rows: ``(n, width)``, a sample of word vectors.
            queries: ``(m, width)``.
            size: dimensions that are kept, r.
            seed: of the rotation.
        """
        rows, queries = rows.double(), queries.double()
        width = rows.shape[1]
        moment = queries.t() @ queries
        moment *= (1.0 - _SHRINKAGE) * width / moment.trace().clamp(min=_TINY)
        moment += _SHRINKAGE * torch.eye(width, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(moment)
        root = (vectors * values.sqrt()) @ vectors.t()
        inverse = (vectors * values.rsqrt()) @ vectors.t()
        spread = (rows @ root).t() @ (rows @ root)
        principal = torch.linalg.eigh(spread)[1].flip(1)[:, :size]
        generator = torch.Generator().manual_seed(seed)
        gauss = torch.randn(size, size, generator=generator, dtype=torch.float64)
        turned = principal @ torch.linalg.qr(gauss)[0]
        return cls((root @ turned).float().contiguous(), (inverse @ turned).float().contiguous())
