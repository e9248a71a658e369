"""Adds a word index to a bundle, from its models."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fuse_index.build.queries import sample_queries
from fuse_index.bundle import Manifest, read_bundle
from fuse_index.bundle.identity import require_model
from fuse_index.common.progress import Tick
from fuse_index.index import IndexOptions, Representation, Side, WordIndex, add_index, sides_of
from fuse_index.models import load_model
from fuse_index.models.embeddings import Embeddings, load_embeddings
from fuse_index.words.table import WordTable

if TYPE_CHECKING:
    from fuse_index.models.base import Model

logger = logging.getLogger(__name__)


class IndexModel(str, Enum):
    """Over whose vectors an index is; its value is the index's name in a bundle."""

    SOURCE = "source"
    TARGET = "target"
    JOINT = "joint"

    @property
    def sides(self) -> tuple[str, ...]:
        """The models whose vectors are concatenated."""
        return ("source", "target") if self is IndexModel.JOINT else (self.value,)


@dataclass(frozen=True)
class IndexResult:
    """The result of :func:`index_bundle`.

    Attributes:
        index: the index.
        name: what it is called in the bundle.
        manifest: of the bundle that holds it now.
    """

    index: WordIndex
    name: str
    manifest: Manifest


def index_bundle(
    bundle: str | os.PathLike[str],
    model: IndexModel = IndexModel.TARGET,
    options: IndexOptions | None = None,
    *,
    names: Mapping[str, str | Model | None] | None = None,
    device: str | None = None,
    local_files_only: bool = False,
    progress: Tick | None = None,
) -> IndexResult:
    """Build a word index and put it into the bundle.

    Approximate kinds are measured on gradients of the models' own losses at random texts.

    Args:
        bundle: its folder.
        model: over whose vectors.
        options: see :class:`~fuse_index.index.IndexOptions`.
        names: where the models are now, by "source" and "target", or models in memory; where they
            were built from if not given.
        device: where gradients are taken.
        local_files_only: no network.
        progress: called with (kinds tried, kinds to try).

    Raises:
        BundleError: the bundle is damaged.
        IdentityError: a model is not the one that the bundle was built for.
        OptionError: no kind reaches the recall within the memory.
        StorageError: the bundle cannot be written; it is as it was.
    """
    options = options or IndexOptions()
    read = read_bundle(bundle, parts=("words",))
    found = {side: (names or {}).get(side) for side in model.sides}
    places = {side: name or getattr(read.manifest, side).name for side, name in found.items()}
    loaded = {
        side: load_embeddings(place, local_files_only=local_files_only)
        for side, place in places.items()
    }
    for side, embeddings in loaded.items():
        built_for = getattr(read.manifest, side)
        require_model(side, built_for, embeddings.identity, str(bundle))
    index = make_index(
        read.table,
        loaded,
        options,
        device=device,
        local_files_only=local_files_only,
        progress=progress,
    )
    return IndexResult(index, model.value, add_index(bundle, index, model.value))


def make_index(
    table: WordTable,
    embeddings: Mapping[str, Embeddings],
    options: IndexOptions,
    *,
    device: str | None = None,
    local_files_only: bool = False,
    progress: Tick | None = None,
) -> WordIndex:
    """Build an index over models; see :func:`index_bundle`.

    Args:
        table: the words.
        embeddings: by "source" and "target", one or both.
        options: see :class:`~fuse_index.index.IndexOptions`.
        device: where gradients are taken.
        local_files_only: no network.
        progress: called with (kinds tried, kinds to try).
    """
    tables = {name: given.table for name, given in embeddings.items()}
    sides = sides_of(table, source=tables.get("source"), target=tables.get("target"))
    queries = None
    if not options.kind.exact:  # an exact kind has nothing to be measured but its time
        models = [
            given.model or load_model(given.name, device=device, local_files_only=local_files_only)
            for given in embeddings.values()
        ]
        queries = gradient_queries(table, sides, models, options)
    return WordIndex.build(
        table.words, table.counts, sides, options, queries=queries, progress=progress
    )


def gradient_queries(
    table: WordTable, sides: Sequence[Side], models: Sequence[Model], options: IndexOptions
) -> Tensor:
    """Draw gradients of all models: ``(m, width)``.

    A model's part is divided by its gradient's length and its embeddings' mean length, so that
    every model has about the same weight in a joint query.
    """
    parts = []
    for side, model in zip(sides, models, strict=True):
        padded = options.representation is Representation.PADDED
        slots = int(side.tokens.lengths.max()) if padded else None
        drawn = sample_queries(model, side.tokens, table.counts, slots=slots, seed=options.seed)
        length = side.table.norm(dim=1).mean().clamp(min=1e-12)
        parts.append(drawn / (drawn.norm(dim=1, keepdim=True) * length) * side.weight)
    fewest = min(map(len, parts))
    return torch.cat([part[:fewest] for part in parts], 1)
