"""Methods: how candidates are proposed; one file each, for tokens and for words."""

from __future__ import annotations

from fuse_index.optimize.methods.autodan import AutoDAN
from fuse_index.optimize.methods.base import Context, Method, MethodOptions, Proposals
from fuse_index.optimize.methods.gcg import GCG, Draw
from fuse_index.optimize.methods.pez import PEZ
from fuse_index.optimize.methods.random_search import Norm, RandomSearch
from fuse_index.optimize.methods.schedule import Moves

METHODS: dict[str, type[MethodOptions]] = {
    options.type: options for options in (GCG, Moves, AutoDAN, PEZ, RandomSearch)
}
"""Every method by its name in files and on the command line."""

__all__ = [
    "GCG",
    "METHODS",
    "PEZ",
    "AutoDAN",
    "Context",
    "Draw",
    "Method",
    "MethodOptions",
    "Moves",
    "Norm",
    "Proposals",
    "RandomSearch",
]
