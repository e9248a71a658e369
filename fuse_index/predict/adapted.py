"""Words ranked through an adapter, each by its image among the target's embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fuse_index.adapter.adapter import Adapter
from fuse_index.words.ragged import Ragged

_WORDS = 2048
"""Words that are mapped at once."""


class AdaptedWords:
    """Images of words, for predictions through an adapter.

    The image of a word is the mean of the ``q`` target embeddings that the adapter maps its ``p``
    source embeddings to; a position's summed gradient is multiplied with it. For linear maps that
    is the gradient spread over ``q`` target tokens and pulled back, plus the intercept's part.

    Args:
        adapter: from source to target.
        table: ``(source vocabulary, d_src)``, the source's embeddings.
        source: ``N`` words in the source's tokens.
        target: the same words in the target's tokens.
    """

    def __init__(self, adapter: Adapter, table: Tensor, source: Ragged, target: Ragged) -> None:
        counts = source.lengths, target.lengths
        self._images = torch.empty(len(source), adapter.target_width, device=adapter.device)
        for start in range(0, len(source), _WORDS):
            rows = np.arange(start, min(start + _WORDS, len(source)))
            p, q = (own[rows] for own in counts)
            ids = torch.from_numpy(source.select(rows).values).to(table.device)
            embeddings = table[ids].float().to(adapter.device)
            with torch.no_grad():
                mapped = adapter.apply(embeddings, adapter.layout(p, q))
            self._images[start : start + len(rows)] = _means(mapped, q)

    def changes(self, sums: Tensor) -> Tensor:
        """Rank all words: gradients ``(S, d_tgt)`` of positions -> ``(S, N)``."""
        return sums.to(self._images) @ self._images.T


def _means(rows: Tensor, counts: np.ndarray) -> Tensor:
    """``(rows, d)`` of words one after another to ``(words, d)``."""
    repeats = torch.from_numpy(counts).to(rows.device)
    words = torch.repeat_interleave(
        torch.arange(len(counts), device=rows.device), repeats, output_size=len(rows)
    )
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, words, rows)
    return sums / repeats[:, None]
