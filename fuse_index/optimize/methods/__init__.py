"""Methods: how candidates are proposed; one file each."""

from __future__ import annotations

from fuse_index.optimize.methods.autodan import AutoDAN
from fuse_index.optimize.methods.base import Context, Method, MethodOptions, Proposals
from fuse_index.optimize.methods.gcg import GCG, Draw
from fuse_index.optimize.methods.pez import PEZ
from fuse_index.optimize.methods.random_search import Norm, RandomSearch
from fuse_index.optimize.methods.word_edits import WordEdits
from fuse_index.optimize.methods.word_pez import WordPEZ
from fuse_index.optimize.methods.word_swaps import Guide, WordSwaps
from fuse_index.optimize.methods.word_writer import WordWriter

METHODS: dict[str, type[MethodOptions]] = {
    options.type: options
    for options in (GCG, WordSwaps, AutoDAN, WordWriter, WordEdits, PEZ, WordPEZ, RandomSearch)
}
"""Every method by its name in files and on the command line."""

__all__ = [
    "GCG",
    "METHODS",
    "PEZ",
    "AutoDAN",
    "Context",
    "Draw",
    "Guide",
    "Method",
    "MethodOptions",
    "Norm",
    "Proposals",
    "RandomSearch",
    "WordEdits",
    "WordPEZ",
    "WordSwaps",
    "WordWriter",
]
