"""Keys and values of a prompt's beginning, computed once and shared by a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fuse_index.errors import ModelError, OptionError


@dataclass(frozen=True)
class Prefix:
    """The cached beginning of a prompt.

    Attributes:
        ids: its token ids, special ones included.
        cache: the transformers cache of one row; never changed, :meth:`expanded` copies it.
        logits: (n, vocabulary size) predictions of the last n tokens, where they were asked for.
    """

    ids: tuple[int, ...]
    cache: Any
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def expanded(self, rows: int) -> Any:
        """Return a cache for a batch of ``rows`` that shares this one's memory.

        The keys and values are expanded views; a layer that grows concatenates into new tensors,
        so the stored cache stays as it is.
        """
        return self._changed(lambda states: states.expand(rows, *states.shape[1:]))

    @property
    def complete(self) -> bool:
        """Whether every layer still has all tokens; a sliding window drops the oldest."""
        sizes = [layer.keys.shape[-2] for layer in self.cache.layers if layer.keys is not None]
        return all(size == len(self) for size in sizes)

    def cut(self, length: int) -> Prefix:
        """Return the first ``length`` tokens of this prefix, sharing its memory.

        With it one :meth:`CausalModel.prefill` of the current prompt serves candidates that change
        it at any position.

        Raises:
            OptionError: ``length`` is not between 1 and the length of the prefix.
            ModelError: a layer has dropped its oldest tokens.
        """
        if not 1 <= length <= len(self):
            raise OptionError(f"cut({length})", expected=f"1 to {len(self)}, the prefix's length")
        if length == len(self):
            return self
        if not self.complete:
            raise ModelError(
                f"a cached prefix of {len(self)} tokens cannot be cut to {length}",
                expected="a prefix no longer than the model's sliding window",
                remedy="prefill the shorter prefix",
            )
        cache = self._changed(lambda states: states[..., :length, :])
        for layer in cache.layers:
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length = length
        return Prefix(self.ids[:length], cache)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Any:
        """A copy of the cache with other keys and values."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            if layer.keys is not None:
                layer.keys, layer.values = change(layer.keys), change(layer.values)
        return cache


def check_cacheable(cache: Any, name: str) -> None:
    """Refuse caches whose layers are not plain keys and values (state-space models).

    Raises:
        ModelError: a layer has another kind of state.
    """
    layers = getattr(cache, "layers", None)
    plain = [hasattr(own, "keys") and not hasattr(own, "recurrent_states") for own in layers or ()]
    if not layers or not all(plain):
        raise ModelError(
            f"{name}: its cache ({type(cache).__name__}) does not hold keys and values",
            expected="a model with attention in every layer",
            remedy="run it without a cached prefix",
        )
