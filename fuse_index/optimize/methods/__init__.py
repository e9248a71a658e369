"""Methods: how candidates are proposed; one file each, for tokens and for words."""

from __future__ import annotations

from fuse_index.optimize.methods.autodan import AutoDAN
from fuse_index.optimize.methods.base import MethodOptions
from fuse_index.optimize.methods.gcg import GCG
from fuse_index.optimize.methods.pez import PEZ
from fuse_index.optimize.methods.random_search import RandomSearch
from fuse_index.optimize.methods.schedule import Moves

METHODS: dict[str, type[MethodOptions]] = {
    options.type: options for options in (GCG, Moves, AutoDAN, PEZ, RandomSearch)
}
"""Every method by its name in files and on the command line."""
