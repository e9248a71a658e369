"""The largest of many scores."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

TILE = 256
_LEAST_TILES_PER_BEST = 4


def best_of(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest of each row, in falling order.

    Every one of the k largest lies in one of the k tiles with the largest maxima, so one pass over
    the scores and a search among ``k * TILE`` of them suffice. This is exact.

    Args:
        scores: ``(b, n)``, ``-inf`` at what must not be found.
        k: at most ``n``.

    Returns:
        Values and positions, both ``(b, k)``.
    """
    b, n = scores.shape
    tiles = n // TILE
    if tiles < _LEAST_TILES_PER_BEST * k:
        values, positions = scores.topk(k, dim=1)
        return values, positions
    body = scores[:, : tiles * TILE].view(b, tiles, TILE)
    tile = body.amax(2).topk(k, dim=1, sorted=False).indices  # (b, k)
    inside = body.gather(1, tile[..., None].expand(b, k, TILE)).flatten(1)  # (b, k * TILE)
    where = (tile[..., None] * TILE + torch.arange(TILE, device=tile.device)).flatten(1)
    if n > tiles * TILE:
        inside = torch.cat([inside, scores[:, tiles * TILE :]], 1)
        rest = torch.arange(tiles * TILE, n, device=tile.device)
        where = torch.cat([where, rest.expand(b, -1)], 1)
    values, positions = inside.topk(k, dim=1)
    return values, where.gather(1, positions)


def best_of_chunks(chunks: Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest of rows that come in chunks of columns.

    Args:
        chunks: first column and scores ``(b, columns)`` of every chunk.
        k: at most the number of columns in all.

    Returns:
        Values and columns, both ``(b, k)``, in falling order.
    """
    values: Tensor | None = None
    columns: Tensor | None = None
    for start, scores in chunks:
        found, where = best_of(scores, min(k, scores.shape[1]))
        where = where + start
        if values is not None and columns is not None:
            found, where = torch.cat([values, found], 1), torch.cat([columns, where], 1)
            found, order = found.topk(min(k, found.shape[1]), dim=1)
            where = where.gather(1, order)
        values, columns = found, where
    assert values is not None
    assert columns is not None
    return values, columns
