"""The word index: words by their vectors, for gradients, points and joint queries."""

from fuse_index.index.files import add_index, load_index, read_index, save_index
from fuse_index.index.masks import Mask
from fuse_index.index.options import IndexOptions, Kind, Metric, Representation
from fuse_index.index.vectors import Side, WordVectors, sides_of
from fuse_index.index.verify import verify_indexes
from fuse_index.index.word_index import WordIndex

__all__ = [
    "IndexOptions",
    "Kind",
    "Mask",
    "Metric",
    "Representation",
    "Side",
    "WordIndex",
    "WordVectors",
    "add_index",
    "load_index",
    "read_index",
    "save_index",
    "sides_of",
    "verify_indexes",
]
