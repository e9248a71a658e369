"""Where things are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "FUSE_INDEX_CACHE"
"""Environment variable with the folder; it is read here and nowhere else."""


def cache_folder() -> Path:
    """Return the cache folder: ``$FUSE_INDEX_CACHE``, else ``~/.cache/fuse_index``."""
    given = os.environ.get(VARIABLE, "")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "fuse_index"
