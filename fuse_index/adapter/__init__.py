"""Fitting adapters, the adapter itself, the autograd bridge, the quality report."""

from fuse_index.adapter.adapter import Adapter
from fuse_index.adapter.fit.fit import Fit, fit_adapter
from fuse_index.adapter.fit.options import FitOptions, Grouping, MapKind
from fuse_index.adapter.fit.quality import GroupQuality, QualityReport
from fuse_index.adapter.layout import WordLayout
from fuse_index.adapter.straight_through import bridge

__all__ = [
    "Adapter",
    "Fit",
    "FitOptions",
    "GroupQuality",
    "Grouping",
    "MapKind",
    "QualityReport",
    "WordLayout",
    "bridge",
    "fit_adapter",
]
