"""The t-products of an adapter's groups, with their intercepts: ragged batches in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fuse_index.adapter.layout import WordLayout
from fuse_index.bundle.layout import FALLBACK, parse_group
from fuse_index.errors import ShapeError
from fuse_index.ops import pull_back, push_forward


class GroupProducts:
    """Maps ``X * G + b`` of the groups that have a t-product, one after another.

    Args:
        names: of the groups, in their order.
        adapters: ``(k, d_src, d_tgt)`` by group.
        intercepts: ``(q, d_tgt)`` by group; ``(1, d_tgt)`` for the fallback, added to every target
            token.

    Attributes:
        faces: ``(F, d_src, d_tgt)``: the faces of all groups, one group after another.
        names: of the groups.
        tubes: tube length ``k`` of every group.
        face_offsets: ``(groups + 1,)`` int64: where each group's faces begin.
        intercepts: ``(Q, d_tgt)``, of all groups, zero where one has none; empty if none has.

    Raises:
        ShapeError: shapes, dtypes or devices differ between groups, or a value is not finite.
    """

    def __init__(
        self,
        names: Sequence[str],
        adapters: Mapping[str, Tensor],
        intercepts: Mapping[str, Tensor],
    ) -> None:
        _check_adapters(adapters)
        self.names = tuple(names)
        ordered = [adapters[name] for name in names]
        self.faces = torch.cat(ordered)
        self.tubes = tuple(len(faces) for faces in ordered)
        self.face_offsets = _offsets(self.tubes, self.faces.device)
        self.intercepts, self._rows = self.faces.new_zeros(0), self.face_offsets
        if intercepts:
            self._stack(names, intercepts)
        self._require_finite()

    def _stack(self, names: Sequence[str], intercepts: Mapping[str, Tensor]) -> None:
        width = self.faces.shape[2]
        counts = [max(parse_group(name).target_count, 1) for name in names]
        rows = []
        for name, q in zip(names, counts, strict=True):
            own = intercepts.get(name, self.faces.new_zeros(q, width))
            if own.shape != (q, width):
                raise ShapeError(
                    f"the intercept of {name!r} has shape {tuple(own.shape)}",
                    expected=f"({q}, {width})",
                )
            rows.append(own.to(self.faces))
        self.intercepts = torch.cat(rows)
        self._rows = _offsets(counts, self.faces.device)

    @classmethod
    def identity(cls, width: tuple[int, int]) -> GroupProducts:
        """Return the products of an adapter without groups."""
        own = cls.__new__(cls)
        own.faces, own.names, own.tubes = torch.zeros(0, *width), (), ()
        own.face_offsets = own._rows = _offsets((), own.faces.device)
        own.intercepts = own.faces.new_zeros(0)
        return own

    def pull_back(self, grad: Tensor, layout: WordLayout) -> Tensor:
        """Return ``out[s] = sum over t < q of g[t] @ G[(t - s) mod k]^T`` word by word, packed."""
        return pull_back(
            grad,
            self.faces,
            self.face_offsets,
            layout.groups,
            layout.source_offsets,
            layout.target_offsets,
            layout.source_rows,
        )

    def apply(self, source: Tensor, layout: WordLayout) -> Tensor:
        """Return the first ``q`` tokens of ``X * G + b`` word by word, packed."""
        out = push_forward(
            source,
            self.faces,
            self.face_offsets,
            layout.groups,
            layout.source_offsets,
            layout.target_offsets,
            layout.target_rows,
        )
        return out + self._intercepts_of(layout) if len(self.intercepts) else out

    def _intercepts_of(self, layout: WordLayout) -> Tensor:
        """``(target_rows, d_tgt)``; nothing waits for a GPU."""
        device, rows = layout.device, layout.target_rows
        words = torch.repeat_interleave(
            torch.arange(len(layout), device=device), layout.target_offsets.diff(), output_size=rows
        )
        within = torch.arange(rows, device=device) - layout.target_offsets[words]
        groups = layout.groups[words]
        # the fallback has one row for every target token
        return self.intercepts[
            torch.minimum(self._rows[groups] + within, self._rows[groups + 1] - 1)
        ]

    def to(self, device: torch.device, dtype: torch.dtype) -> GroupProducts:
        """Return the products on another device or in another floating dtype.

        Raises:
            ShapeError: a value is beyond the range of the dtype.
        """
        other = GroupProducts.__new__(GroupProducts)
        other.__dict__.update(self.__dict__)
        other.faces = self.faces.to(device, dtype)
        other.intercepts = self.intercepts.to(device, dtype)
        other.face_offsets, other._rows = self.face_offsets.to(device), self._rows.to(device)
        if dtype is not self.faces.dtype:
            other._require_finite()
        return other

    def _require_finite(self) -> None:
        for tensor in (self.faces, self.intercepts):
            require_finite(tensor)


def require_finite(tensor: Tensor) -> None:
    """Refuse NaN and infinity, such as values that a conversion has taken out of range.

    Raises:
        ShapeError: there are some.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise ShapeError(
            f"adapters that are not finite in {tensor.dtype}",
            expected=f"finite values, at most {torch.finfo(tensor.dtype).max:.3g}",
            remedy="use a wider dtype, or build the bundle again",
        )


def _offsets(counts: Sequence[int], device: torch.device) -> Tensor:
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return torch.from_numpy(starts).to(device)


def _check_adapters(adapters: Mapping[str, Tensor]) -> None:
    first = adapters[FALLBACK]
    for name, faces in adapters.items():
        if (
            faces.ndim != 3
            or faces.shape[1:] != first.shape[1:]
            or faces.dtype != first.dtype
            or faces.device != first.device
            or not faces.is_floating_point()
        ):
            raise ShapeError(
                f"adapter {name!r} has shape {tuple(faces.shape)}, {faces.dtype}, {faces.device}",
                expected=f"(k, {first.shape[-2]}, {first.shape[-1]}), {first.dtype}, "
                f"{first.device}, as the fallback has",
            )
        key = parse_group(name)
        if len(faces) < key.smallest_tube or (
            key.tube_is_fixed and len(faces) != key.smallest_tube
        ):
            raise ShapeError(
                f"adapter {name!r} has {len(faces)} faces", expected=f"k = {key.smallest_tube}"
            )
