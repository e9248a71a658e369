"""Keys and values of a prompt's beginning, computed once and shared by a batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from fuse_index.errors import ModelError


@dataclass(frozen=True)
class Prefix:
    """The cached beginning of a prompt.

    Attributes:
        ids: its token ids, special ones included.
        cache: the transformers cache of one row; never changed, :meth:`expanded` copies it.
    """

    ids: tuple[int, ...]
    cache: Any

    def __len__(self) -> int:
        return len(self.ids)

    def expanded(self, rows: int) -> Any:
        """Return a cache for a batch of ``rows`` that shares this one's memory.

        The keys and values are expanded views; a layer that grows concatenates into new tensors,
        so the stored cache stays as it is.
        """
        cache = copy.copy(self.cache)
        cache.layers = [_expand_layer(layer, rows) for layer in self.cache.layers]
        return cache


def check_cacheable(cache: Any, name: str) -> None:
    """Refuse caches whose layers are not plain keys and values (state-space models).

    Raises:
        ModelError: a layer has another kind of state.
    """
    layers = getattr(cache, "layers", None)
    if not layers or not all(hasattr(layer, "keys") for layer in layers) or _recurrent(layers):
        raise ModelError(
            f"{name}: its cache ({type(cache).__name__}) does not hold keys and values",
            expected="a model with attention in every layer",
            remedy="run it without a cached prefix",
        )


def _recurrent(layers: list[Any]) -> bool:
    return any(hasattr(layer, "recurrent_states") for layer in layers)


def _expand_layer(layer: Any, rows: int) -> Any:
    layer = copy.copy(layer)
    if layer.keys is not None:
        layer.keys = layer.keys.expand(rows, *layer.keys.shape[1:])
        layer.values = layer.values.expand(rows, *layer.values.shape[1:])
    return layer
