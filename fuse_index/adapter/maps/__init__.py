"""Maps of one word group beside the t-product: one module a kind, one interface."""

from fuse_index.adapter.maps.base import GroupMap
from fuse_index.adapter.maps.kinds import make_map

__all__ = ["GroupMap", "make_map"]
