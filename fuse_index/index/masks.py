"""Masks of words that may be found: by id, spelling, count and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import OptionError, ShapeError

if TYPE_CHECKING:
    from fuse_index.index.vectors import WordVectors

Flags = NDArray[np.bool_]
Range = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Mask:
    """Words that may be found; made once, used in any number of searches.

    Attributes:
        allowed: ``(n,)`` bool.
    """

    allowed: Flags
    _devices: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        allowed = np.ascontiguousarray(self.allowed)
        if allowed.ndim != 1 or allowed.dtype != np.bool_:
            raise ShapeError(
                f"a mask of shape {allowed.shape} and dtype {allowed.dtype}",
                expected="(words,) booleans",
            )
        object.__setattr__(self, "allowed", allowed)
        if not self.count:
            raise OptionError(
                f"a mask that allows none of {len(allowed)} words",
                expected="at least one word",
                remedy="ask for less",
            )

    def __len__(self) -> int:
        return len(self.allowed)

    def __and__(self, other: Mask) -> Mask:
        """Words that both allow."""
        return Mask(self.allowed & other.allowed)

    def __or__(self, other: Mask) -> Mask:
        """Words that either allows."""
        return Mask(self.allowed | other.allowed)

    def __invert__(self) -> Mask:
        """Words that are not allowed."""
        return Mask(~self.allowed)

    @cached_property
    def count(self) -> int:
        """How many words are allowed."""
        return int(self.allowed.sum())

    @cached_property
    def ids(self) -> Tensor:
        """``(count,)`` int64: the words, in rising order."""
        return torch.from_numpy(np.flatnonzero(self.allowed))

    @cached_property
    def _bits(self) -> NDArray[np.uint8]:
        return np.packbits(self.allowed, bitorder="little")

    @cached_property
    def selector(self) -> Any:
        """The FAISS selector; nothing is rebuilt for it."""
        from fuse_index.index.approximate import import_faiss  # noqa: PLC0415

        return import_faiss().IDSelectorBitmap(self._bits)

    def on(self, device: torch.device) -> Tensor:
        """The flags as a tensor on a device, moved there once."""
        key = str(device)
        if key not in self._devices:
            self._devices[key] = torch.from_numpy(self.allowed).to(device)
        return self._devices[key]


def make_mask(
    words: Sequence[str],
    counts: NDArray[np.int64],
    vectors: WordVectors,
    *,
    ids: Any = None,
    exclude: Any = None,
    upper: bool | None = None,
    alphabetic: bool | None = None,
    count: Range | None = None,
    tokens: Mapping[str, int | Range] | None = None,
) -> Mask:
    """Allow the words that fit every condition given; see :meth:`WordIndex.mask`."""
    n = len(words)
    allowed = np.ones(n, np.bool_)
    if ids is not None:
        allowed &= _members(ids, n)
    if exclude is not None:
        allowed &= ~_members(exclude, n)
    for wanted, test in ((upper, _starts_upper), (alphabetic, str.isalpha)):
        if wanted is not None:
            allowed &= np.fromiter(map(test, words), np.bool_, n) == wanted
    if count is not None:
        allowed &= _within(counts, count)
    sides = {side.name: side for side in vectors.sides}
    for name, wanted_tokens in (tokens or {}).items():
        if name not in sides:
            raise OptionError(f"token counts of model {name!r}", expected=f"one of {list(sides)}")
        bounds = (wanted_tokens,) * 2 if isinstance(wanted_tokens, int) else wanted_tokens
        allowed &= _within(sides[name].tokens.lengths, bounds)
    return Mask(allowed)


def _starts_upper(word: str) -> bool:
    return word[:1].isupper()


def _members(ids: Any, n: int) -> Flags:
    values = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids).reshape(-1)
    if values.dtype == np.bool_ and len(values) == n:
        return values
    if len(values) and values.dtype.kind not in "iu":
        raise ShapeError(f"word ids of dtype {values.dtype}", expected="integers or booleans")
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < n:
        raise OptionError(
            f"word ids from {values.min()} to {values.max()}", expected=f"0 to {n - 1}"
        )
    flags = np.zeros(n, np.bool_)
    flags[values.astype(np.int64)] = True
    return flags


def _within(values: NDArray[np.int64], bounds: Range) -> Flags:
    low, high = bounds
    if low > high:
        raise OptionError(f"a range from {low} to {high}", expected="a range that rises")
    flags: Flags = (values >= low) & (values <= high)
    return flags
