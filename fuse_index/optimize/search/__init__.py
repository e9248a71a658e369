"""Searches: which prompts are kept, and which of them a method works on next; one file each."""

from __future__ import annotations

from fuse_index.optimize.search.base import Search, SearchOptions
from fuse_index.optimize.search.beam import Beam
from fuse_index.optimize.search.greedy import Greedy
from fuse_index.optimize.search.uniform_cost import UniformCost

SEARCHES: dict[str, type[SearchOptions]] = {
    options.type: options for options in (Greedy, Beam, UniformCost)
}
"""Every search by its name in files and on the command line."""

__all__ = ["SEARCHES", "Beam", "Greedy", "Search", "SearchOptions", "UniformCost"]
