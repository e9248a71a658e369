"""Prompts of different lengths as one right-padded batch with the content marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

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
        longest: the largest of ``lengths`` as a plain integer.
        even: whether all rows have as many content tokens.
    """

    ids: Tensor
    mask: Tensor
    start: int
    lengths: Tensor
    totals: Tensor
    shared: tuple[int, ...]
    shortest: int
    longest: int
    even: bool

    @cached_property
    def content(self) -> Tensor:
        """(b, L) bool, true at content tokens; ``x[batch.content]`` packs them row after row."""
        positions = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (positions >= self.start) & (positions < (self.start + self.lengths)[:, None])

    @property
    def last(self) -> Tensor:
        """(b,) int64, position of the last real token of each row."""
        return self.totals - 1

    def packed(self, values: Tensor) -> Tensor:
        """Return what (b, L, ...) values hold at content tokens, row after row: (tokens, ...).

        The same as ``values[batch.content]``; of even rows without the host's having to wait.
        """
        if not self.even:
            return values[self.content]
        inside = values[:, self.start : self.start + self.longest]
        return inside.reshape(-1, *values.shape[2:])

    def cut(self, length: int) -> Batch:
        """Return the first positions alone; what stands behind them changes nothing before it.

        Args:
            length: positions of every row, at most those there are.
        """
        if length >= self.ids.shape[1]:
            return self
        return replace(
            self,
            ids=self.ids[:, :length],
            mask=self.mask[:, :length],
            totals=self.totals.clamp(max=length),
            shared=self.shared[:length],
            shortest=min(self.shortest, length),
        )

    def by_length(self) -> list[tuple[Tensor, Batch]]:
        """Return the rows of each length as a batch without padding, the shortest first.

        Returns:
            (n,) int64 indices of rows and their batch, for every length; a row without any token
            keeps one position, masked.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        sizes = zip(self.totals.tolist(), self.lengths.tolist(), strict=True)
        for row, size in enumerate(sizes):
            groups.setdefault(size, []).append(row)
        found = []
        for (total, content), members in sorted(groups.items()):
            rows, length = torch.tensor(members, device=self.ids.device), max(total, 1)
            part = replace(
                self,
                ids=self.ids[rows, :length],
                mask=self.mask[rows, :length],
                lengths=self.lengths[rows],
                totals=self.totals[rows],
                shortest=total,
                longest=content,
                even=True,
            )
            found.append((rows, part))
        return found

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
    here = _on_device((ids, lengths, totals, mask), torch.device(device))
    longest, shortest = int(lengths.max()), int(totals.min())
    return Batch(
        ids=here[0],
        mask=here[3],
        start=len(before),
        lengths=here[1],
        totals=here[2],
        shared=_shared_start(ids, shortest),
        shortest=shortest,
        longest=longest,
        even=longest == int(lengths.min()),
    )


def _on_device(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Return arrays as tensors on a device, without waiting for what it is doing.

    To a GPU all of them go in one copy from memory that the GPU reads by itself: a copy from any
    other memory waits until everything launched before it is done.

    Args:
        arrays: the larger items first, so that every part of the copy is aligned.
        device: where the tensors go.
    """
    if device.type != "cuda":
        return [torch.from_numpy(array).to(device) for array in arrays]
    sizes = [array.nbytes for array in arrays]
    pinned = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]
    # numpy fills it: torch would do so with threads that then keep waiting, and all cores busy
    np.concatenate(parts, out=pinned.numpy())
    moved = torch.split(pinned.to(device, non_blocking=True), sizes)
    return [
        part.view(torch.from_numpy(array).dtype).view(array.shape)
        for part, array in zip(moved, arrays, strict=True)
    ]


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
