"""Maps made from the tensors that a bundle stores."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fuse_index.adapter.maps.base import GroupMap
from fuse_index.adapter.maps.linear import BlockMap, LowRankMap, OrthogonalMap
from fuse_index.adapter.maps.local import LocalMap
from fuse_index.adapter.maps.mlp import MlpMap

_MAPS: dict[str, type[GroupMap]] = {
    own.kind: own for own in (BlockMap, OrthogonalMap, LowRankMap, LocalMap, MlpMap)
}


def make_map(kind: str, tensors: Mapping[str, Tensor]) -> GroupMap:
    """Return the map of a kind that has these tensors, by name.

    Args:
        kind: of :data:`~fuse_index.bundle.kinds.FIELDS`, without those that are t-products.
        tensors: as :meth:`GroupMap.tensors` returns them.
    """
    return _MAPS[kind](**tensors)
