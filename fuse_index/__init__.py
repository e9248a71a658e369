"""Gradients across tokenizers: build, share and use FUSE adapters.

The public names load on first use, so that ``import fuse_index`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuse_index.errors import FuseIndexError

__version__ = "0.1.0"

_HOMES = {
    "FuseIndexError": "fuse_index.errors",
}

__all__ = ["FuseIndexError", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fuse_index' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
