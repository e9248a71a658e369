"""Projection to fewer dimensions that keeps inner products with sampled queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.bundle.tensorfile import parse_file
from fuse_index.bundle.tensors import as_tensor, require_finite
from fuse_index.errors import BundleError
from fuse_index.index.schema import BUILD_AGAIN

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

    @classmethod
    def parse(cls, data: NDArray[np.uint8], width: int, where: str) -> Projection:
        """Read the maps from a tensor file whose checksum was verified.

        Args:
            data: the file; the maps share its memory.
            width: columns of the word vectors.
            where: the file, for messages.

        Raises:
            BundleError: it is damaged, or holds other tensors.
        """
        try:
            entries = parse_file(data, where)
            for entry in entries.values():
                require_finite(entry.spec, data[entry.start : entry.stop], where)
        except BundleError as error:
            raise BundleError(f"{where}: its maps cannot be read ({error.given})") from None
        specs = {name: entry.spec for name, entry in entries.items()}
        shapes = {name: spec.shape for name, spec in specs.items()}
        fits = set(specs) == {"words", "queries"} and len(set(shapes.values())) == 1
        if fits:
            shape = shapes["words"]
            fits = len(shape) == 2 and shape[0] == width and 1 <= shape[1] <= width
            fits &= all(spec.dtype == "F32" for spec in specs.values())
        if not fits:
            raise BundleError(
                f"{where}: maps of shapes {str(shapes)[:200]}",
                expected=f"words and queries, float32, both ({width}, r)",
                remedy=BUILD_AGAIN,
            )
        maps = {name: as_tensor(e.spec, data[e.start : e.stop]) for name, e in entries.items()}
        return cls(maps["words"], maps["queries"])
