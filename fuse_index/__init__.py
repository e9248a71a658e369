"""Gradients across tokenizers: build, share and use FUSE adapters.

The public names load on first use, so that ``import fuse_index`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuse_index.adapter import Adapter, FitOptions, WordLayout, bridge
    from fuse_index.build import BuildOptions, build_bundle, fit_bundle
    from fuse_index.bundle import read_bundle, verify_bundle
    from fuse_index.errors import FuseIndexError
    from fuse_index.evaluate import FidelityOptions, measure_fidelity
    from fuse_index.models import load_model, wrap_model

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "fuse_index.adapter",
    "BuildOptions": "fuse_index.build",
    "FidelityOptions": "fuse_index.evaluate",
    "FitOptions": "fuse_index.adapter",
    "FuseIndexError": "fuse_index.errors",
    "WordLayout": "fuse_index.adapter",
    "bridge": "fuse_index.adapter",
    "build_bundle": "fuse_index.build",
    "fit_bundle": "fuse_index.build",
    "load_model": "fuse_index.models",
    "measure_fidelity": "fuse_index.evaluate",
    "read_bundle": "fuse_index.bundle",
    "verify_bundle": "fuse_index.bundle",
    "wrap_model": "fuse_index.models",
}

__all__ = [
    "Adapter",
    "BuildOptions",
    "FidelityOptions",
    "FitOptions",
    "FuseIndexError",
    "WordLayout",
    "__version__",
    "bridge",
    "build_bundle",
    "fit_bundle",
    "load_model",
    "measure_fidelity",
    "read_bundle",
    "verify_bundle",
    "wrap_model",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fuse_index' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
