"""Optimization of discrete prompts against several models: problem, methods, searches, results."""

from __future__ import annotations

from fuse_index.optimize.auto import Choice, choose, choose_moves
from fuse_index.optimize.budget import Budget, Stop
from fuse_index.optimize.check import Check, check_prompt
from fuse_index.optimize.methods import METHODS
from fuse_index.optimize.methods.autodan import AutoDAN
from fuse_index.optimize.methods.base import MethodOptions
from fuse_index.optimize.methods.gcg import GCG, Draw
from fuse_index.optimize.methods.pez import PEZ
from fuse_index.optimize.methods.random_search import Norm, RandomSearch
from fuse_index.optimize.methods.schedule import Moves
from fuse_index.optimize.optimize import optimize
from fuse_index.optimize.probe import Probe
from fuse_index.optimize.problem import Problem, Term
from fuse_index.optimize.result import Point, Result
from fuse_index.optimize.run import Run, RunOptions
from fuse_index.optimize.search import SEARCHES, Beam, Greedy, SearchOptions, UniformCost
from fuse_index.optimize.tokens import TokenFilter
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.spent import Spent
from fuse_index.predict.units import Unit

__all__ = [
    "GCG",
    "METHODS",
    "PEZ",
    "SEARCHES",
    "AutoDAN",
    "Beam",
    "Budget",
    "Check",
    "Choice",
    "Draw",
    "Greedy",
    "MethodOptions",
    "Moves",
    "Norm",
    "Point",
    "Predictor",
    "Probe",
    "Problem",
    "RandomSearch",
    "Result",
    "Run",
    "RunOptions",
    "SearchOptions",
    "Spent",
    "Stop",
    "Term",
    "TokenFilter",
    "UniformCost",
    "Unit",
    "check_prompt",
    "choose",
    "choose_moves",
    "optimize",
]
