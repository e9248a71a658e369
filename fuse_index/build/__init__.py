"""The offline builder: corpus and two models in, a bundle out."""

from fuse_index.build.fitting import fit_bundle
from fuse_index.build.indexing import IndexModel, IndexResult, index_bundle
from fuse_index.build.options import (
    DEFAULT_MIN_COUNT,
    BuildOptions,
    BuildResult,
    Resources,
    Stage,
)
from fuse_index.build.pipeline import build_bundle

__all__ = [
    "DEFAULT_MIN_COUNT",
    "BuildOptions",
    "BuildResult",
    "IndexModel",
    "IndexResult",
    "Resources",
    "Stage",
    "build_bundle",
    "fit_bundle",
    "index_bundle",
]
