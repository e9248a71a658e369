"""Word tables and dense word tensors for the tests of the fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.groups import group_words
from fuse_index.adapter.fit.options import FitOptions
from fuse_index.adapter.fit.stream import Chunk, LeastSquares
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

CPU = torch.device("cpu")


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_table(groups: dict[tuple[int, int], int], vocabulary: int, seed: int = 0) -> WordTable:
    """Words of random tokens, ``groups[p, q]`` of each kind, in random order."""
    generator = np.random.default_rng(seed)
    shapes = [shape for shape, count in groups.items() for _ in range(count)]
    generator.shuffle(shapes)
    sides = [
        Ragged.from_lists([generator.integers(0, vocabulary, shape[side]) for shape in shapes])
        for side in (0, 1)
    ]
    words = tuple(f"word{index}" for index in range(len(shapes)))
    return WordTable(words, np.ones(len(words), np.int64), *sides)


def dense(ids: Ragged, embeddings: Tensor, rows: np.ndarray, k: int) -> Tensor:
    """The word tensor ``(k, words, width)`` in float64, word by word."""
    faces = torch.zeros(k, len(rows), embeddings.shape[1], dtype=torch.float64)
    for column, row in enumerate(rows):
        tokens = torch.from_numpy(ids[int(row)])
        faces[: len(tokens), column] = embeddings[tokens].double()
    return faces


def group_rows(table: WordTable, p: int | None, q: int) -> np.ndarray:
    shapes = table.shapes
    inside = shapes[:, 1] == q
    return np.flatnonzero(inside if p is None else inside & (shapes[:, 0] == p))


def make_problem(x: Tensor, y: Tensor, workers: Workers, chunk: int = 7) -> LeastSquares:
    """A problem of dense word tensors ``(p, n, width)``, in chunks."""

    def read(dtype: torch.dtype) -> Iterator[Chunk]:
        for start in range(0, x.shape[1], chunk):
            part = slice(start, start + chunk)
            yield x[:, part].to(dtype), y[:, part].to(dtype)

    count, widths = x.shape[1], (x.shape[2], y.shape[2])
    k = max(len(x), len(y))
    return LeastSquares(k, count, count, widths, CPU, workers, read)


def pad(tokens: Tensor, k: int) -> Tensor:
    return torch.cat([tokens, tokens.new_zeros(k - len(tokens), *tokens.shape[1:])])


def relative(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm().clamp_min(1e-300))


def numbered_groups(
    table: WordTable, options: FitOptions, folder: Path | None = None
) -> list[SimpleNamespace]:
    """The groups, with the numbers of their words in the table instead of token ids."""
    numbers = np.arange(len(table))
    sides = [
        Ragged(ids.offsets, np.repeat(numbers, ids.lengths)) for ids in (table.source, table.target)
    ]
    twin = WordTable(table.words, table.counts, *sides)
    found = []
    for group in group_words(twin, options, folder):
        rows = {name: getattr(group, name).tokens()[0][0] for name in ("train", "held_out")}
        facts = {name: getattr(group, name) for name in ("name", "k", "q", "shared")}
        found.append(SimpleNamespace(**facts, **rows))
    return found
