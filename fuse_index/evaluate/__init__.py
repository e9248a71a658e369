"""Measuring: the gradient signal, captions, scene graphs. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuse_index.evaluate.captions import (
        CaptionMetric,
        CaptionOptions,
        CaptionReport,
        score_captions,
    )
    from fuse_index.evaluate.clipscore import score_clip
    from fuse_index.evaluate.fidelity import FidelityOptions, FidelityReport, measure_fidelity
    from fuse_index.evaluate.graphs import Agreement, score_graphs
    from fuse_index.evaluate.interval import (
        BootstrapOptions,
        Interval,
        PairedDifference,
        Score,
        mean_score,
        paired_bootstrap,
    )
    from fuse_index.evaluate.tokenization import Tokenization

_HOMES = {
    "Agreement": "graphs",
    "BootstrapOptions": "interval",
    "CaptionMetric": "captions",
    "CaptionOptions": "captions",
    "CaptionReport": "captions",
    "FidelityOptions": "fidelity",
    "FidelityReport": "fidelity",
    "Interval": "interval",
    "PairedDifference": "interval",
    "Score": "interval",
    "Tokenization": "tokenization",
    "mean_score": "interval",
    "measure_fidelity": "fidelity",
    "paired_bootstrap": "interval",
    "score_captions": "captions",
    "score_clip": "clipscore",
    "score_graphs": "graphs",
}

__all__ = [
    "Agreement",
    "BootstrapOptions",
    "CaptionMetric",
    "CaptionOptions",
    "CaptionReport",
    "FidelityOptions",
    "FidelityReport",
    "Interval",
    "PairedDifference",
    "Score",
    "Tokenization",
    "mean_score",
    "measure_fidelity",
    "paired_bootstrap",
    "score_captions",
    "score_clip",
    "score_graphs",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562): text metrics need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
