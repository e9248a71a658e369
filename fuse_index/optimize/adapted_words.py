"""Whole words scored through an adapter, each by the pull-back of its own group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.optimize.reader import Reader
    from fuse_index.words.ragged import Ragged


class AdaptedWords:
    """Words grouped by their token counts, ready to be scored through an adapter.

    A candidate with ``q`` target tokens receives the place's summed gradient, spread evenly over
    them; the pull-back of its own group carries it to its ``p`` source tokens, whose embeddings it
    meets.

    Args:
        reader: who has the adapter.
        source: ``N`` words in the source's tokens.
        target: the same in the model's.
    """

    def __init__(self, reader: Reader, source: Ragged, target: Ragged) -> None:
        reader.require_adapter()
        assert reader.adapter is not None
        self._adapter = reader.adapter
        self._size = len(source)
        table = reader.source.table()
        pairs = np.stack([source.lengths, target.lengths], axis=1)
        self._groups: list[tuple[int, int, Tensor, Tensor]] = []
        for p, q in np.unique(pairs, axis=0):
            rows = np.flatnonzero((pairs == (p, q)).all(axis=1))
            ids = torch.from_numpy(source.select(rows).padded()).to(table.device)
            flat = table[ids].float().flatten(1).to(self._adapter.device)
            index = torch.from_numpy(rows).to(self._adapter.device)
            self._groups.append((int(p), int(q), index, flat))

    def scores(self, sums: Tensor) -> Tensor:
        """Score all words: gradients ``(W, d_tgt)`` of places -> ``(W, N)``."""
        places = len(sums)
        out = sums.new_zeros(places, self._size)
        for p, q, index, flat in self._groups:
            layout = self._adapter.layout([p] * places, [q] * places)
            spread = (sums / q).repeat_interleave(q, dim=0)
            pulled = self._adapter.pull_back(spread, layout).reshape(places, -1)
            out[:, index] = pulled @ flat.T
        return out
