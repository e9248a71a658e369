"""Words of a layout by the map that serves them: t-products together, other maps group by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter.layout import WordLayout
from fuse_index.adapter.maps import GroupMap
from fuse_index.errors import ShapeError


@dataclass(frozen=True, eq=False)
class MappedWords:
    """Words of one group whose map is no t-product.

    Attributes:
        map: of the group.
        source: ``(n, p)`` int64 rows of packed source tokens, -1 beyond a word's tokens.
        target: ``(n, q)`` int64 rows of packed target tokens.
    """

    map: GroupMap
    source: Tensor
    target: Tensor

    def embed(self, source: Tensor) -> Tensor:
        """Put the source rows of every word side by side: ``(rows, d)`` to ``(n, p * d)``."""
        words = source[self.source.clamp(min=0)]
        return words.masked_fill((self.source < 0)[..., None], 0).flatten(1)


@dataclass(frozen=True, eq=False)
class SplitLayout:
    """The words of a layout, apart.

    Attributes:
        products: the words of t-products, their groups counted without the others; ``None`` where
            there are none.
        source: ``(rows,)`` int64, where their packed source rows lie in the whole layout's.
        target: ``(rows,)`` int64, likewise.
        mapped: the others.
    """

    products: WordLayout | None
    source: Tensor
    target: Tensor
    mapped: list[MappedWords]


def split_layout(layout: WordLayout, maps: Mapping[int, GroupMap], width: int) -> SplitLayout:
    """Sort the words of a layout by their maps; waits for a GPU.

    Args:
        layout: the words.
        maps: by group; the other groups have t-products.
        width: of the source's embeddings.

    Raises:
        ShapeError: a word has more tokens than its group's map takes.
    """
    groups, starts, targets = (
        side.cpu().numpy() for side in (layout.groups, layout.source_offsets, layout.target_offsets)
    )
    p, q = np.diff(starts), np.diff(targets)
    mapped = []
    for group, own in maps.items():
        words = np.flatnonzero(groups == group)
        if not len(words):
            continue
        tokens, wanted = own.source_entries // width, own.intercept.shape[0]
        if (p[words] > tokens).any() or (q[words] != wanted).any():
            raise ShapeError(
                f"words of {p[words].max()} source and {q[words].max()} target tokens",
                expected=f"at most {tokens} and {wanted}, as their group's map takes",
            )
        sides = (
            torch.from_numpy(_rows(starts[words], p[words], tokens)),
            torch.from_numpy(_rows(targets[words], q[words], wanted)),
        )
        mapped.append(MappedWords(own, *(side.to(layout.device) for side in sides)))
    left = np.flatnonzero(~np.isin(groups, [*maps]))
    products = None
    if len(left):
        numbers = groups[left] - np.searchsorted(sorted(maps), groups[left])
        products = WordLayout.from_counts(p[left], q[left], numbers, device=layout.device)
    source, target = (
        torch.from_numpy(_packed(first[left], count[left])).to(layout.device)
        for first, count in ((starts, p), (targets, q))
    )
    return SplitLayout(products, source, target, mapped)


def apply_split(
    source: Tensor, split: SplitLayout, products: Callable[[Tensor, WordLayout], Tensor]
) -> Tensor:
    """Map the words of a layout, differentiably.

    Args:
        source: ``(source_rows, d_src)`` packed.
        split: the words.
        products: maps those of t-products.

    Returns:
        ``(target_rows, d_tgt)`` packed.
    """
    parts, rows = [], []
    if split.products is not None:
        parts.append(products(source[split.source], split.products))
        rows.append(split.target)
    for words in split.mapped:
        out = words.map.apply(words.embed(source))
        parts.append(out.reshape(words.target.numel(), -1))
        rows.append(words.target.flatten())
    return _merge(parts, rows)


def pull_back_split(
    grad: Tensor,
    split: SplitLayout,
    source: Tensor | None,
    products: Callable[[Tensor, WordLayout], Tensor],
) -> Tensor:
    """Pull the gradients of the words of a layout back.

    Args:
        grad: ``(target_rows, d_tgt)`` packed.
        split: the words.
        source: ``(source_rows, d_src)`` packed; ``None`` if all maps are linear.
        products: pulls back through t-products.

    Returns:
        ``(source_rows, d_src)`` packed.
    """
    parts, rows = [], []
    if split.products is not None:
        parts.append(products(grad[split.target], split.products))
        rows.append(split.source)
    for words in split.mapped:
        at = None if source is None else words.embed(source)
        pulled = words.map.pull_back(grad[words.target].flatten(1), at)
        known = words.source >= 0
        parts.append(pulled.view(*known.shape, -1)[known])
        rows.append(words.source[known])
    return _merge(parts, rows)


def _merge(parts: list[Tensor], rows: list[Tensor]) -> Tensor:
    """Put rows where they belong; every row of the result is given once."""
    order = torch.cat(rows).argsort()
    return torch.cat(parts).index_select(0, order)


def _rows(starts: NDArray[np.int64], counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    within = np.arange(most)
    rows: NDArray[np.int64] = np.where(within < counts[:, None], starts[:, None] + within, -1)
    return rows


def _packed(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = counts.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    rows = np.arange(total, dtype=np.int64)
    rows += np.repeat(starts - (ends - counts), counts)
    return rows
