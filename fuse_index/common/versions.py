"""Versions of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import fuse_index

_PACKAGES = ("torch", "transformers", "open_clip_torch", "numpy", "faiss-cpu")


def package_versions() -> dict[str, str]:
    """Return the versions of Python, this package and those it computes with."""
    found = {"python": platform.python_version(), "fuse_index": fuse_index.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
