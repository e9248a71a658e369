"""Checks the word indexes of a bundle as far as that goes without the models."""

from __future__ import annotations

import os

from fuse_index.bundle import Bundle, read_bundle
from fuse_index.errors import BundleError
from fuse_index.index.faissfile import CodesLayout
from fuse_index.index.options import Representation
from fuse_index.index.projection import Projection
from fuse_index.index.schema import BUILD_AGAIN, parse_index_json


def verify_indexes(path: str | os.PathLike[str]) -> None:
    """Check every word index of a bundle: all that reading it checks, but for the embeddings.

    Args:
        path: the bundle's folder, or one that was pulled without its indexes.

    Raises:
        BundleError: naming the first thing that is wrong.
    """
    bundle = read_bundle(path, parts=("words",))
    for name in bundle.manifest.indexes:
        _verify_index(bundle, name)


def _verify_index(bundle: Bundle, name: str) -> None:
    where = str(bundle.path / "index" / f"{name}.json")
    value, options = parse_index_json(bundle.index_bytes(f"{name}.json").tobytes(), where)
    table, added = bundle.table, value["added"]
    words = len(table) + len(added["words"])
    if len({*table.words, *added["words"]}) < words:
        raise BundleError(f"{where}: an added word is there already", remedy=BUILD_AGAIN)
    width = 0
    for model in value["models"]:
        identity, rows = getattr(bundle.manifest, model), added["tokens"][model]
        if any(max(row) >= identity.vocabulary_size for row in rows):
            raise BundleError(
                f"{where}: an added word has tokens that the {model} lacks",
                expected=f"0 to {identity.vocabulary_size - 1}",
                remedy=BUILD_AGAIN,
            )
        longest = max([int(getattr(table, model).lengths.max(initial=0)), *map(len, rows)])
        padded = options.representation is Representation.PADDED
        width += identity.width * (longest if padded else 1)
    if (engine := value["engine"]) is None:
        return
    projected = engine["reduction"] is not None
    if projected:
        maps = Projection.parse(bundle.index_bytes(f"{name}.safetensors"), width, where)
        width = maps.words.shape[1]
    layout = CodesLayout.of(width, words, options.metric, projected=projected)
    layout.require(bundle.index_bytes(f"{name}.faiss"), where)
