"""Where things are kept between runs."""

from fuse_index.common.cache import VARIABLE, cache_folder

__all__ = ["VARIABLE", "cache_folder"]
