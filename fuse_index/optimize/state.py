"""Prompts with their losses: one of them, and a step's candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.words.ragged import Ragged

Ids = tuple[int, ...]
Options = TypeVar("Options")
Losses = NDArray[np.float64]


@dataclass(frozen=True)
class State:
    """A prompt that was scored.

    Attributes:
        ids: its tokens in the source model.
        losses: one for every term of the problem.
        total: their weighted sum.
        items: one for every item of every term, NaN where it was not computed; empty in a problem
            without items.
    """

    ids: Ids
    losses: tuple[float, ...]
    total: float
    items: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> State:
        """Build a state from its fields as JSON has them."""
        return cls(
            tuple(int(i) for i in value["ids"]),
            tuple(float(x) for x in value["losses"]),
            float(value["total"]),
            tuple(float(x) for x in value.get("items", ())),
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """Candidates of one step with their losses.

    Attributes:
        prompts: ``n`` rows of source ids.
        losses: ``(n, terms)``.
        totals: ``(n,)``, their weighted sums.
        accept: whether a prompt may be kept; called only for those a search wants to keep.
        prepare: checks prompts together before :attr:`accept` is called for each, which may be
            cheaper.
        items: ``(n, losses)``, one for every item of every term; None in a problem without items.
    """

    prompts: Ragged
    losses: Losses
    totals: Losses
    accept: Callable[[Ids], bool] = lambda ids: True
    prepare: Callable[[Sequence[Ids]], None] = lambda prompts: None
    items: Losses | None = None

    def __len__(self) -> int:
        return len(self.totals)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """``(n,)``: candidates from the smallest total to the largest; of equals the first."""
        return np.argsort(self.totals, kind="stable")

    def state(self, index: int) -> State:
        """Return one candidate as a state."""
        return State(
            tuple(self.prompts[index].tolist()),
            tuple(self.losses[index].tolist()),
            float(self.totals[index]),
            () if self.items is None else tuple(self.items[index].tolist()),
        )

    def best(self) -> Iterator[State]:
        """Yield the candidates that may be kept, from the best on."""
        for index in self.order:
            state = self.state(int(index))
            if self.accept(state.ids):
                yield state


def require_ids(ids: Ids, size: int, name: str) -> None:
    """Refuse an empty prompt and ids that are none of the source's tokens.

    Raises:
        OptionError: it is empty, or an id is outside the vocabulary.
    """
    if not ids:
        raise OptionError("an initial prompt of 0 tokens", expected="at least one token")
    if not 0 <= min(ids) <= max(ids) < size:
        raise OptionError(
            f"an initial prompt with token ids from {min(ids)} to {max(ids)}",
            expected=f"ids from 0 to {size - 1}, the tokens of {name}",
        )


def from_json(types: Mapping[str, type[Options]], value: Mapping[str, Any]) -> Options:
    """Return options from their JSON object, whose ``type`` names their class."""
    fields = {name: item for name, item in value.items() if name != "type"}
    return types[value["type"]](**fields)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def pack_rows(name: str, rows: Ragged, losses: Losses) -> dict[str, Tensor]:
    """Return rows of ids and their losses as tensors."""
    return {
        f"{name}.offsets": torch.from_numpy(rows.offsets),
        f"{name}.values": torch.from_numpy(rows.values),
        f"{name}.losses": torch.from_numpy(np.ascontiguousarray(losses)),
    }


def unpack_rows(name: str, tensors: Mapping[str, Tensor]) -> tuple[Ragged, Losses]:
    """Return what :func:`pack_rows` packed."""
    offsets, values, losses = (
        tensors[f"{name}.{part}"].numpy() for part in ("offsets", "values", "losses")
    )
    return Ragged(offsets, values), losses
