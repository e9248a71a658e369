"""Optimization of discrete prompts against several models: problem, methods, searches, results."""

from __future__ import annotations

from fuse_index.optimize.anchors import AnchorAverage, AnchorPlaces, AnchorSource
from fuse_index.optimize.budget import Budget, Spent, Stop
from fuse_index.optimize.methods import (
    GCG,
    METHODS,
    PEZ,
    AutoDAN,
    Draw,
    Guide,
    MethodOptions,
    Norm,
    RandomSearch,
    WordEdits,
    WordPEZ,
    WordSwaps,
    WordWriter,
)
from fuse_index.optimize.optimize import optimize
from fuse_index.optimize.probe import Probe
from fuse_index.optimize.problem import Problem, Term
from fuse_index.optimize.result import Point, Result
from fuse_index.optimize.run import Run, RunOptions
from fuse_index.optimize.search import SEARCHES, Beam, Greedy, SearchOptions, UniformCost
from fuse_index.optimize.tokens import TokenFilter
from fuse_index.optimize.word_gradient import Expansion
from fuse_index.optimize.word_merit import Route

__all__ = [
    "GCG",
    "METHODS",
    "PEZ",
    "SEARCHES",
    "AnchorAverage",
    "AnchorPlaces",
    "AnchorSource",
    "AutoDAN",
    "Beam",
    "Budget",
    "Draw",
    "Expansion",
    "Greedy",
    "Guide",
    "MethodOptions",
    "Norm",
    "Point",
    "Probe",
    "Problem",
    "RandomSearch",
    "Result",
    "Route",
    "Run",
    "RunOptions",
    "SearchOptions",
    "Spent",
    "Stop",
    "Term",
    "TokenFilter",
    "UniformCost",
    "WordEdits",
    "WordPEZ",
    "WordSwaps",
    "WordWriter",
    "optimize",
]
