"""Masks of words that may be found: by id, spelling, count and tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import OptionError, ShapeError

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
    def bits(self) -> NDArray[np.uint8]:
        """``(ceil(n / 8),)``: the flags as FAISS reads them."""
        return np.packbits(self.allowed, bitorder="little")

    def on(self, device: torch.device) -> Tensor:
        """The flags as a tensor on a device, moved there once."""
        key = str(device)
        if key not in self._devices:
            self._devices[key] = torch.from_numpy(self.allowed).to(device)
        return self._devices[key]


def starts_upper(word: str) -> bool:
    """Whether the first letter is an upper-case one."""
    return word[:1].isupper()


def members(ids: Any, n: int) -> Flags:
    """``(n,)``: which words ids, or flags, name."""
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


def within(values: NDArray[np.int64], bounds: Range) -> Flags:
    """``(n,)``: which values are within bounds, both included."""
    low, high = bounds
    if low > high:
        raise OptionError(f"a range from {low} to {high}", expected="a range that rises")
    flags: Flags = (values >= low) & (values <= high)
    return flags
