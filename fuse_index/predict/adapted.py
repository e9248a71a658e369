"""Words ranked through an adapter, each by the pull-back of its group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.adapter.adapter import Adapter
    from fuse_index.words.ragged import Ragged


class AdaptedWords:
    """Words by group, for predictions through an adapter.

    The summed gradient of a position is spread evenly over the ``q`` target tokens of a candidate;
    the pull-back of the candidate's group carries it to its ``p`` source tokens, whose embeddings
    it is multiplied with.

    Args:
        adapter: from source to target.
        table: ``(source vocabulary, d_src)``, the source's embeddings.
        source: ``N`` words in the source's tokens.
        target: the same words in the target's tokens.
    """

    def __init__(self, adapter: Adapter, table: Tensor, source: Ragged, target: Ragged) -> None:
        self._adapter = adapter
        self._size = len(source)
        pairs = np.stack([source.lengths, target.lengths], axis=1)
        self._groups: list[tuple[int, int, Tensor, Tensor]] = []
        for p, q in np.unique(pairs, axis=0):
            rows = np.flatnonzero((pairs == (p, q)).all(axis=1))
            ids = torch.from_numpy(source.select(rows).padded()).to(table.device)
            flat = table[ids].float().flatten(1).to(adapter.device)
            index = torch.from_numpy(rows).to(adapter.device)
            self._groups.append((int(p), int(q), index, flat))

    def changes(self, sums: Tensor) -> Tensor:
        """Rank all words: gradients ``(S, d_tgt)`` of positions -> ``(S, N)``."""
        positions = len(sums)
        out = sums.new_zeros(positions, self._size)
        for p, q, index, flat in self._groups:
            layout = self._adapter.layout([p] * positions, [q] * positions)
            spread = (sums / q).repeat_interleave(q, dim=0)
            pulled = self._adapter.pull_back(spread, layout).reshape(positions, -1)
            out[:, index] = pulled @ flat.T
        return out
