"""A bundle's word index, asked for words of the lexicon instead of scoring all of them."""

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

    from fuse_index.optimize.lexicon import Lexicon
    from fuse_index.optimize.reader import Reader

logger = logging.getLogger(__name__)

INDEX_FROM = 50_000
"""Words from which on an index answers faster than a product with all of them."""


class IndexedWords:
    """Searches the words of a lexicon in an index.

    Args:
        index: holds all words of the lexicon, and perhaps others.
        lexicon: the words that may be found.

    Raises:
        KeyError: a word of the lexicon is not in the index.
    """

    def __init__(self, index: WordIndex, lexicon: Lexicon) -> None:
        self.index = index
        place = {word: i for i, word in enumerate(index.words)}
        rows = np.array([place[word] for word in lexicon.words], dtype=np.int64)
        self._own = torch.full((len(index),), -1, dtype=torch.int64)
        self._own[torch.from_numpy(rows)] = torch.arange(len(rows))
        whole = len(rows) == len(index)
        self._mask = None if whole else index.mask(ids=rows)
        self._size = len(rows)

    def top(self, sums: Mapping[str, Tensor], count: int) -> Tensor:
        """Find the words with the best predicted change for all models together: one search.

        Args:
            sums: ``(S, d)`` gradients of places by model, "source" or "target".
            count: words a place.

        Returns:
            ``(S, min(count, N))`` int64 ids of the lexicon on the CPU, the best first.
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
    lexicon: Lexicon, readers: Sequence[Reader], *, least: int = INDEX_FROM, alone: bool = False
) -> IndexedWords | None:
    """Return the index of a bundle that covers models, if words are many and there is one.

    Args:
        lexicon: the words.
        readers: of the models that are asked about.
        least: words from which on an index is looked for.
        alone: whether the index must be of these models only, as cosines want it.

    Returns:
        The index; None where the lexicon is small, no adapter's bundle has an index over these
        models and all these words, or it was built for other embeddings.
    """
    if len(lexicon) < least:
        return None
    others = {id(reader): reader for reader in readers if not reader.is_source}
    if len(others) > 1 or not readers:
        return None
    of_source = any(reader.is_source for reader in readers)
    single = "joint" if of_source and others else "source" if of_source else "target"
    names = [single] if alone else list(dict.fromkeys([single, "joint"]))
    for reader in others.values() or lexicon.readers:
        bundle = None if reader.adapter is None else reader.adapter.bundle
        if bundle is None or not set(lexicon.words) <= set(bundle.table.words):
            continue
        for name in names:
            if name not in bundle.manifest.indexes:
                continue
            tables = {"source": reader.source.table(), "target": reader.model.table()}
            given = {key: table.detach().float().cpu() for key, table in tables.items()}
            try:
                return IndexedWords(read_index(bundle, name, **given), lexicon)
            except IdentityError as error:
                logger.warning("%s; all words are scored instead", error)
    return None
