"""Random words in two models, and the answers by brute force in float64."""

from __future__ import annotations

import numpy as np
import torch

from fuse_index.index import Metric, Representation, Side, WordIndex
from fuse_index.words.ragged import Ragged


def make_sides(
    n: int, widths: dict[str, int], seed: int = 0, vocabulary: int = 60, longest: int = 3
) -> list[Side]:
    rng = np.random.default_rng(seed)
    sides = []
    for name, width in widths.items():
        rows = [rng.integers(vocabulary, size=rng.integers(1, longest + 1)) for _ in range(n)]
        rows[0] = rng.integers(vocabulary, size=longest)
        table = torch.from_numpy(rng.standard_normal((vocabulary, width)).astype(np.float32))
        sides.append(Side(name, Ragged.from_lists([row.tolist() for row in rows]), table))
    return sides


def make_words(n: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Words of all looks, and falling counts."""
    looks = ("word{}", "Word{}", "alpha{}x", "Beta", "gamma")
    letters = str.maketrans("0123456789", "abcdefghij")
    words = []
    for i in range(n):
        word = looks[i % 3].format(i)
        words.append(word.translate(letters) if i % 2 else word)
    return tuple(words), np.arange(n, 0, -1)


def brute_vectors(sides: list[Side], representation: Representation) -> np.ndarray:
    """(n, width) float64, word by word."""
    parts = []
    for side in sides:
        table = side.table.double().numpy()
        k = int(side.tokens.lengths.max())
        rows = []
        for ids in side.tokens:
            if representation is Representation.MEAN:
                rows.append(table[ids].mean(0))
            else:
                padded = np.zeros((k, table.shape[1]))
                padded[: len(ids)] = table[ids]
                rows.append(padded.reshape(-1))
        parts.append(np.stack(rows))
    return np.concatenate(parts, 1)


def brute_scores(vectors: np.ndarray, queries: np.ndarray, metric: Metric) -> np.ndarray:
    """(b, n) float64, query by query."""
    queries = queries.astype(np.float64)
    out = np.empty((len(queries), len(vectors)))
    for i, query in enumerate(queries):
        if metric is Metric.L2:
            out[i] = -((query - vectors) ** 2).sum(1)
        else:
            out[i] = (vectors * query).sum(1)
        if metric is Metric.COSINE:
            out[i] /= np.linalg.norm(query) * np.linalg.norm(vectors, axis=1)
    return out


def assert_best(
    ids: torch.Tensor,
    scores: torch.Tensor,
    truth: np.ndarray,
    allowed: np.ndarray | None = None,
    tolerance: float = 1e-4,
) -> None:
    """The scores are the largest of the true ones, in falling order, and belong to the ids."""
    truth = truth if allowed is None else np.where(allowed, truth, -np.inf)
    k = ids.shape[1]
    best = -np.sort(-truth, axis=1)[:, :k]
    np.testing.assert_allclose(scores.numpy(), best, rtol=tolerance, atol=tolerance)
    of_ids = np.take_along_axis(truth, ids.numpy(), 1)
    np.testing.assert_allclose(of_ids, best, rtol=tolerance, atol=tolerance)
    for row in ids.tolist():
        assert len(set(row)) == k


def gradient_like(index: WordIndex, m: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(m, index.width, generator=torch.Generator().manual_seed(seed))
