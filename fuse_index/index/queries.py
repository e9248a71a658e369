"""Checked inputs of an index: its models and queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import OptionError, ShapeError
from fuse_index.index.vectors import Side, WordVectors
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

Array = Tensor | NDArray[np.floating[Any]]


def sides_of(
    table: WordTable,
    *,
    source: Tensor | None = None,
    target: Tensor | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[Side]:
    """Return the models of a word table whose embeddings are given.

    Raises:
        OptionError: neither is given.
    """
    factors = dict(weights or {})
    given = [("source", table.source, source), ("target", table.target, target)]
    sides = [
        Side(name, tokens, embeddings, float(factors.get(name, 1.0)))
        for name, tokens, embeddings in given
        if embeddings is not None
    ]
    if not sides:
        raise OptionError("no embedding table", expected="that of the source, the target or both")
    return sides


def check_queries(queries: Array, width: int, what: str = "queries") -> Tensor:
    """Return queries as finite float32 ``(b, width)``, where they are.

    Raises:
        ShapeError: another width, or a value that is not finite.
    """
    values = torch.as_tensor(queries).detach()
    if values.ndim != 2 or values.shape[1] != width:
        raise ShapeError(
            f"{what} of shape {tuple(values.shape)}",
            expected=f"(queries, {width}), the width of the index",
        )
    values = values.float()
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).any(1).nonzero()[0, 0])
        raise ShapeError(f"{what}: row {bad} holds NaN or infinity", expected="finite numbers")
    return values


def joined(first: Ragged, second: Ragged) -> Ragged:
    """Put the rows of two after another."""
    offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    return Ragged(offsets, np.concatenate([first.values, second.values]))


def fold_queries(
    vectors: WordVectors,
    queries: Mapping[str, Array],
    weights: Mapping[str, float] | None = None,
) -> Tensor:
    """Put the queries of several models, times their weights, into one: ``(b, width)``.

    Args:
        vectors: of the words.
        queries: by model; models that are left out get zeros.
        weights: by model; those of the sides where none is given.

    Raises:
        ShapeError: an unknown model, or queries that do not fit.
    """
    factors = {side.name: side.weight for side in vectors.sides}
    if not queries or not {*queries, *(weights or {})} <= set(factors):
        raise ShapeError(
            f"queries of models {list(queries)}, weights of {list(weights or {})}",
            expected=f"some of {list(factors)}",
        )
    factors |= dict(weights or {})
    parts = {}
    for name, given in queries.items():
        part = vectors.part_of(name)
        parts[name] = check_queries(given, part.stop - part.start, f"the {name}'s queries")
    if len({len(values) for values in parts.values()}) != 1:
        sizes = {name: len(values) for name, values in parts.items()}
        raise ShapeError(f"queries {sizes}", expected="as many for every model")
    first = next(iter(parts.values()))
    folded = first.new_zeros(len(first), vectors.width)
    for name, values in parts.items():
        folded[:, vectors.part_of(name)] = values.to(first.device) * factors[name]
    return folded
