"""The group of a word, by its token counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.layout import FALLBACK, parse_group


class PairTable:
    """Looks up the group of a (p, q) pair; what it does not know uses the fallback."""

    def __init__(self, names: tuple[str, ...], tubes: Sequence[int]) -> None:
        self.fallback = names.index(FALLBACK)
        keys = [parse_group(name) for name in names]
        longest = max(tubes)
        self.table = np.full((longest + 1, longest + 1), self.fallback, np.int64)
        for index, (key, k) in enumerate(zip(keys, tubes, strict=True)):
            if key.target_count == 0:
                continue
            # A group that fixes q alone serves every p that its tube has room for.
            sources = (
                slice(key.source_count, key.source_count + 1)
                if key.source_count
                else slice(1, k + 1)
            )
            self.table[sources, key.target_count] = index

    def look_up(self, p: NDArray[np.int64], q: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of the groups of words of ``p`` source and ``q`` target tokens."""
        known = (p >= 0) & (q >= 0) & (p < len(self.table)) & (q < len(self.table))
        found = self.table[np.where(known, p, 0), np.where(known, q, 0)]
        return np.where(known, found, self.fallback)
