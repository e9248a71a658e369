"""Prompts of different lengths as one right-padded batch with the content marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.errors import ModelError, ShapeError
from fuse_index.models.frame import Frame
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows of ``head + prefix + content + suffix + tail``, padded on the right.

    Attributes:
        ids: (b, L) int64.
        mask: (b, L) bool, true at real tokens.
        start: position of the first content token, the same in every row.
        lengths: (b,) int64, content tokens of each row.
        totals: (b,) int64, real tokens of each row.
        shared: the ids that all rows begin with, as plain integers; what a cached prefix may hold.
        shortest: the smallest of ``totals`` as a plain integer.
    """

    ids: Tensor
    mask: Tensor
    start: int
    lengths: Tensor
    totals: Tensor
    shared: tuple[int, ...]
    shortest: int

    @cached_property
    def content(self) -> Tensor:
        """(b, L) bool, true at content tokens; ``x[batch.content]`` packs them row after row."""
        positions = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (positions >= self.start) & (positions < (self.start + self.lengths)[:, None])

    @property
    def last(self) -> Tensor:
        """(b,) int64, position of the last real token of each row."""
        return self.totals - 1

    def __len__(self) -> int:
        return self.ids.shape[0]


def build_batch(
    contents: Sequence[Sequence[int]] | Ragged,
    frame: Frame,
    *,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    limit: int | None = None,
    name: str = "model",
    device: torch.device | str = "cpu",
) -> Batch:
    """Frame and pad rows of content ids.

    Args:
        contents: b rows of token ids, any lengths, none of them special tokens of the frame.
        frame: special tokens around the content.
        prefix: ids between the head and the content.
        suffix: ids between the content and the tail.
        limit: positions the model has, or None.
        name: the model, for messages.
        device: where the tensors go.

    Raises:
        ShapeError: there is no row.
        ModelError: a row is longer than the model's positions.
    """
    values, lengths = _packed(contents)
    if not len(lengths):
        raise ShapeError("a batch of 0 rows", expected="at least one row of token ids")
    before = np.asarray([*frame.head, *prefix], dtype=np.int64)
    after = np.asarray([*suffix, *frame.tail], dtype=np.int64)
    totals = lengths + len(before) + len(after)
    special = len(frame.head) + len(frame.tail)
    _check_positions(lengths, (special, len(prefix), len(suffix)), limit, name)
    ids = np.full((len(lengths), frame.width or int(totals.max())), frame.pad, dtype=np.int64)
    ids[:, : len(before)] = before
    end = len(before) + lengths
    row = np.repeat(np.arange(len(lengths)), lengths)
    # where each packed value goes: the end of its row's content, less what follows it there
    ids[row, np.arange(len(values)) + (end - np.cumsum(lengths))[row]] = values
    if len(after):
        ids[np.arange(len(lengths))[:, None], end[:, None] + np.arange(len(after))] = after
    mask = np.arange(ids.shape[1]) < totals[:, None]
    return Batch(
        ids=torch.from_numpy(ids).to(device),
        mask=torch.from_numpy(mask).to(device),
        start=len(before),
        lengths=torch.from_numpy(lengths).to(device),
        totals=torch.from_numpy(totals).to(device),
        shared=_shared_start(ids, int(totals.min())),
        shortest=int(totals.min()),
    )


def _packed(
    contents: Sequence[Sequence[int]] | Ragged,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All values one row after another, and the length of every row."""
    if isinstance(contents, Ragged):
        return contents.values, contents.lengths
    rows = [np.asarray(row, dtype=np.int64) for row in contents]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.concatenate(rows) if rows else np.zeros(0, np.int64), lengths


def _shared_start(ids: NDArray[np.int64], shortest: int) -> tuple[int, ...]:
    same = (ids[:, :shortest] == ids[:1, :shortest]).all(axis=0)
    length = shortest if same.all() else int(same.argmin())
    return tuple(ids[0, :length].tolist())


def _check_positions(
    lengths: NDArray[np.int64], sizes: tuple[int, int, int], limit: int | None, name: str
) -> None:
    special, prefix, suffix = sizes
    worst = int(lengths.argmax())
    content = int(lengths[worst])
    total = content + special + prefix + suffix
    if limit is None or total <= limit:
        return
    raise ModelError(
        f"{name}: row {worst} has {total} tokens ({special} special, {prefix} of the prefix, "
        f"{content} of the content, {suffix} of the suffix)",
        expected=f"at most {limit}, the model's positions",
        remedy="shorten the prompt, the prefix or the suffix",
    )
