"""Sharing bundles through the Hub, buckets and folders, and comparing two of them."""

from __future__ import annotations

from fuse_index.common.cache import cache_folder
from fuse_index.share.places import Place, PlaceKind, parse_place
from fuse_index.share.pull import Pulled, locate, pull
from fuse_index.share.push import Pushed, PushOptions, push

__all__ = [
    "Place",
    "PlaceKind",
    "Pulled",
    "PushOptions",
    "Pushed",
    "cache_folder",
    "locate",
    "parse_place",
    "pull",
    "push",
]
