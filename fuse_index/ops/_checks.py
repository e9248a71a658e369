"""Argument checks of the operators; everything is verified here before a pointer is taken.

Shapes, dtypes and devices are checked always, by the fakes too. The *values* of the offsets are
checked where they can be read without waiting for a device, that is on the CPU; the CUDA kernels
clamp them instead, so that no value makes them read or write out of bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fuse_index.errors import ShapeError

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Layout(NamedTuple):
    """Where the words and the faces lie in the packed tensors (all int64, on one device).

    Attributes:
        face_offsets: ``(n_groups + 1,)``; group g owns faces ``[face_offsets[g],
            face_offsets[g + 1])``, its tube length k is their number.
        word_groups: ``(n,)`` group of each word.
        source_offsets: ``(n + 1,)``; word w owns source rows ``[source_offsets[w],
            source_offsets[w + 1])``.
        target_offsets: ``(n + 1,)``, likewise for the target rows.
    """

    face_offsets: Tensor
    word_groups: Tensor
    source_offsets: Tensor
    target_offsets: Tensor


def check_float(op: str, name: str, value: Tensor, dim: int | None, meaning: str) -> None:
    """Raise :class:`ShapeError` unless ``value`` is floating and has ``dim`` dimensions."""
    if value.dtype not in FLOATING:
        raise ShapeError(
            f"{op}: {name} has dtype {value.dtype}",
            expected="float64, float32, bfloat16 or float16",
            remedy=f"convert it with {name}.float()",
        )
    if dim is not None and value.dim() != dim:
        raise ShapeError(
            f"{op}: {name} has shape {tuple(value.shape)}", expected=f"{dim} dimensions {meaning}"
        )


def check_same(op: str, first: tuple[str, Tensor], second: tuple[str, Tensor]) -> None:
    """Raise :class:`ShapeError` unless two tensors share dtype and device."""
    (name_a, a), (name_b, b) = first, second
    if a.dtype != b.dtype:
        raise ShapeError(
            f"{op}: {name_a} is {a.dtype} but {name_b} is {b.dtype}",
            expected="one dtype",
            remedy=f"convert one with .to({a.dtype})",
        )
    if a.device != b.device:
        raise ShapeError(
            f"{op}: {name_a} is on {a.device} but {name_b} is on {b.device}",
            expected="one device",
            remedy=f"move one with .to({str(a.device)!r})",
        )


def check_layout(op: str, layout: Layout, device: torch.device) -> None:
    """Check shapes, dtype and device of the four index tensors (not their values)."""
    for name, value in layout._asdict().items():
        if value.dtype != torch.int64 or value.dim() != 1:
            raise ShapeError(
                f"{op}: {name} is {value.dtype} of shape {tuple(value.shape)}",
                expected="int64 of one dimension",
            )
        if value.device != device:
            raise ShapeError(
                f"{op}: {name} is on {value.device} but the data is on {device}",
                expected="one device",
                remedy=f"move it with .to({str(device)!r})",
            )
    words = layout.word_groups.shape[0]
    for name in ("source_offsets", "target_offsets"):
        length = getattr(layout, name).shape[0]
        if length != words + 1:
            raise ShapeError(
                f"{op}: {name} has {length} entries for {words} words", expected=f"{words + 1}"
            )
    if layout.face_offsets.shape[0] < 1:
        raise ShapeError(f"{op}: face_offsets is empty", expected="n_groups + 1 entries")


def check_offsets(op: str, name: str, offsets: Sequence[int], rows: int, of: str) -> None:
    """Check the values of offsets: from 0 up to ``rows``, never falling."""
    falls = any(a > b for a, b in pairwise(offsets))
    if offsets[0] != 0 or offsets[-1] != rows or falls:
        shape = "fall somewhere" if falls else f"go from {offsets[0]} to {offsets[-1]}"
        raise ShapeError(
            f"{op}: {name} {shape}", expected=f"non-falling values from 0 to {rows}, the rows {of}"
        )


def check_groups(op: str, layout: Layout, faces: int) -> None:
    """Check the values of the group offsets and of the words' groups; reads them on the host."""
    offsets = layout.face_offsets.tolist()
    check_offsets(op, "face_offsets", offsets, faces, "of faces")
    groups = len(offsets) - 1
    empty = [g for g in range(groups) if offsets[g] == offsets[g + 1]]
    if empty:
        raise ShapeError(
            f"{op}: group {empty[0]} has no face", expected="a tube length of at least 1"
        )
    if layout.word_groups.numel():
        low, high = (int(v) for v in torch.aminmax(layout.word_groups))
        if low < 0 or high >= groups:
            raise ShapeError(
                f"{op}: word_groups has values from {low} to {high}",
                expected=f"0 to {groups - 1}, as face_offsets has {groups} groups",
            )


def check_values(op: str, layout: Layout, faces: int, source: int, target: int) -> None:
    """Check the values of the whole layout against the number of faces and rows."""
    check_groups(op, layout, faces)
    for side, rows in (("source", source), ("target", target)):
        name = f"{side}_offsets"
        check_offsets(op, name, getattr(layout, name).tolist(), rows, f"of the {side} side")
