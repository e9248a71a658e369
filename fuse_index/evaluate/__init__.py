"""Measuring: the gradient signal, captions, scene graphs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fuse_index.evaluate.captions import (
    CaptionMetric,
    CaptionOptions,
    CaptionReport,
    score_captions,
)
from fuse_index.evaluate.diversity import Diversity, measure_diversity
from fuse_index.evaluate.graphs import Agreement, score_graphs
from fuse_index.evaluate.interval import (
    BootstrapOptions,
    Interval,
    PairedDifference,
    Score,
    mean_score,
    paired_bootstrap,
)
from fuse_index.evaluate.references import Polarity, References, read_references
from fuse_index.evaluate.tokenization import Tokenization

if TYPE_CHECKING:
    from fuse_index.evaluate.clipscore import score_clip
    from fuse_index.evaluate.fidelity import FidelityOptions, FidelityReport, measure_fidelity
    from fuse_index.evaluate.token_fidelity import measure_token_fidelity

_NEED_TORCH = {
    "FidelityOptions": "fidelity",
    "FidelityReport": "fidelity",
    "measure_fidelity": "fidelity",
    "measure_token_fidelity": "token_fidelity",
    "score_clip": "clipscore",
}

__all__ = [
    "Agreement",
    "BootstrapOptions",
    "CaptionMetric",
    "CaptionOptions",
    "CaptionReport",
    "Diversity",
    "FidelityOptions",
    "FidelityReport",
    "Interval",
    "PairedDifference",
    "Polarity",
    "References",
    "Score",
    "Tokenization",
    "mean_score",
    "measure_diversity",
    "measure_fidelity",
    "measure_token_fidelity",
    "paired_bootstrap",
    "read_references",
    "score_captions",
    "score_clip",
    "score_graphs",
]


def __getattr__(name: str) -> Any:
    """Import a name that needs torch on first use (PEP 562): text metrics do without it."""
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
