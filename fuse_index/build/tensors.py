"""Words to group tensors to adapters: the part that a build and a fit share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.adapter.fit.fit import fit_adapter
from fuse_index.adapter.fit.options import FitOptions
from fuse_index.adapter.fit.store import FitStore
from fuse_index.bundle import BundleContents, GroupReader, GroupTensor, Manifest, embed_groups
from fuse_index.bundle.tensors import Vectors
from fuse_index.bundle.wordfile import WordReader
from fuse_index.common.progress import Tick
from fuse_index.errors import BundleError
from fuse_index.words.ragged import Ragged, offsets_of
from fuse_index.words.stored_table import StoredTable
from fuse_index.words.table import Blocks, WordTable


@dataclass(frozen=True, eq=False)
class GroupTensors:
    """The third-order tensors of all words, whose values are read where they are needed.

    Attributes:
        table: the words; their token ids are rows of ``source`` and ``target``.
        source: ``(n, source width)``: the embedding table, or the vectors of tensors in a file.
        target: ``(m, target width)``, likewise.
    """

    table: Blocks
    source: Vectors
    target: Vectors

    @classmethod
    def read(cls, words: WordReader, groups: GroupReader, manifest: Manifest) -> GroupTensors:
        """Return the tensors that a bundle holds; no model is needed.

        Args:
            words: of the bundle.
            groups: its tensors.
            manifest: of the bundle.
        """
        vectors = {side: groups.vectors(side) for side in ("source", "target")}
        places = {
            side: np.array([rows.first(f"{side}.{name}") for name in manifest.group_names])
            for side, rows in vectors.items()
        }
        before = np.zeros(len(manifest.groups), np.int64)
        parts = []
        for range_, counts in zip(words.ranges, words.group_counts(), strict=True):
            parts.append(partial(_numbered, words, range_, before, places))
            before = before + counts
        return cls(StoredTable(parts), vectors["source"], vectors["target"])

    def by_group(self, names: Sequence[str]) -> list[GroupTensor]:
        """Describe the tensors of groups, which are made while they are written."""
        return embed_groups(self.table, names, self.source, self.target)


def fit_contents(
    tensors: GroupTensors,
    known: Mapping[str, Any],
    options: FitOptions,
    progress: Tick,
    store: FitStore | None = None,
) -> BundleContents:
    """Fit adapters, and put a bundle together, without its group tensors.

    Args:
        tensors: of the words.
        known: the contents that do not depend on the fit.
        options: of the fit.
        progress: called with (words done, words in all).
        store: keeps what is done; in memory if not given.
    """
    fit = fit_adapter(tensors.table, tensors.source, tensors.target, options, progress, store=store)
    return BundleContents(
        **{**known, "options": {**known["options"], "ridges": fit.ridges}},
        adapters=fit.adapters,
        fallbacks=fit.fallbacks,
        quality=fit.quality.to_dict(),
        maps=fit.maps,
        kinds=fit.kinds,
        selection=fit.selection,
    )


def _numbered(
    words: WordReader,
    part: tuple[int, int],
    before: NDArray[np.int64],
    places: Mapping[str, NDArray[np.int64]],
) -> WordTable:
    """Read some words, with the rows of their vectors instead of token ids.

    Args:
        words: of the bundle.
        part: first word and the one to stop before.
        before: ``(groups,)``, words of each group before this part.
        places: by side ``(groups, 2)``: first row and tube length of every group's tensor.
    """
    table, groups = words.part(*part)
    number = np.empty(len(groups), np.int64)  # of the word in its group
    for group in np.unique(groups).tolist():
        rows = np.flatnonzero(groups == group)
        number[rows] = before[group] + np.arange(len(rows))
    sides = []
    for side, ids in (("source", table.source), ("target", table.target)):
        first, k = places[side][groups].T
        lengths = ids.lengths
        if (lengths > k).any():
            raise BundleError(
                f"{words.where}: a word has more {side} tokens than its group's tensor",
                remedy="fetch or build the bundle again",
            )
        offsets = offsets_of(lengths)
        starts = first + number * k - offsets[:-1]
        sides.append(Ragged(offsets, np.repeat(starts, lengths) + np.arange(offsets[-1])))
    return WordTable(table.words, table.counts, *sides)
