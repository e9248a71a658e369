"""The word index of a bundle, searched instead of ranking all words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.errors import IdentityError
from fuse_index.index import Metric, WordIndex, read_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fuse_index.predict.target import Target
    from fuse_index.predict.units import WordUnits

logger = logging.getLogger(__name__)

INDEX_FROM = 50_000
"""Words from which on an index is faster than a product with all of them."""


class IndexedWords:
    """Searches words of a problem in an index.

    Args:
        index: holds all these words, and perhaps others.
        words: the words that may be found.

    Raises:
        KeyError: a word is not in the index.
    """

    def __init__(self, index: WordIndex, words: WordUnits) -> None:
        self.index = index
        row_of = {word: i for i, word in enumerate(index.words)}
        rows = np.array([row_of[word] for word in words.words], dtype=np.int64)
        self._own = torch.full((len(index),), -1, dtype=torch.int64)
        self._own[torch.from_numpy(rows)] = torch.arange(len(rows))
        whole = len(rows) == len(index)
        self._mask = None if whole else index.mask(ids=rows)
        self._size = len(rows)

    def top(self, sums: Mapping[str, Tensor], count: int) -> Tensor:
        """Find the words with the best predicted change for all models together: one search.

        Args:
            sums: ``(S, d)`` gradients of positions by model, "source" or "target".
            count: words a position.

        Returns:
            ``(S, min(count, N))`` int64 words on the CPU, the best first.
        """
        queries = {name: -own.float().cpu() for name, own in sums.items()}
        ids, _ = self.index.joint(
            queries,
            min(count, self._size),
            self._mask,
            weights=dict.fromkeys(queries, 1.0),
            metric=Metric.INNER_PRODUCT,
        )
        return self._own[ids]

    def nearest(self, points: Tensor) -> Tensor:
        """Find the word nearest to each point by cosine: ``(n, width) -> (n,)`` on the CPU."""
        ids, _ = self.index.nearest(points.float().cpu(), 1, self._mask, metric=Metric.COSINE)
        return self._own[ids[:, 0]]


def find_index(
    words: WordUnits, targets: Sequence[Target], *, alone: bool = False
) -> IndexedWords | None:
    """Return the index of a bundle that covers models, if words are many and there is one.

    Args:
        words: the words.
        targets: of the models that are searched.
        alone: whether the index must be of these models only, as cosines want it.

    Returns:
        The index; None where words are few, no adapter's bundle has an index over these
        models and all these words, or it was built for other embeddings.
    """
    if len(words) < INDEX_FROM:
        return None
    others = {id(target): target for target in targets if not target.is_source}
    if len(others) > 1 or not targets:
        return None
    of_source = any(target.is_source for target in targets)
    single = "joint" if of_source and others else "source" if of_source else "target"
    names = [single] if alone else list(dict.fromkeys([single, "joint"]))
    for target in others.values() or words.targets:
        bundle = None if target.adapter is None else target.adapter.bundle
        if bundle is None or not set(words.words) <= set(bundle.table.words):
            continue
        for name in names:
            if name not in bundle.manifest.indexes:
                continue
            tables = {"source": target.source.table(), "target": target.model.table()}
            given = {key: table.detach().float().cpu() for key, table in tables.items()}
            try:
                return IndexedWords(read_index(bundle, name, **given), words)
            except IdentityError as error:
                logger.warning("%s; all words are ranked instead", error)
    return None
