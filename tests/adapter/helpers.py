"""Brute-force twins of what the adapter does, word by word, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse_index.adapter import Adapter

PAIRS = [(p, q) for p in range(1, 5) for q in range(1, 5)]


def random_adapter(
    d_src: int, d_tgt: int, dtype: torch.dtype = torch.float64, seed: int = 0, limit: int = 4
) -> Adapter:
    """An adapter of random faces for every (p, q) up to ``limit``, and the fallback."""
    generator = torch.Generator().manual_seed(seed)

    def faces(k: int) -> Tensor:
        return torch.randn(k, d_src, d_tgt, generator=generator, dtype=torch.float64).to(dtype)

    groups = {f"{p}x{q}": faces(max(p, q)) for p, q in PAIRS if max(p, q) <= limit}
    return Adapter({**groups, "fallback": faces(1)})


def pull_back_word(faces: Tensor, grad: Tensor, p: int) -> Tensor:
    """``out[s] = sum_t g[t] @ G[(t - s) mod k]^T`` by its definition."""
    k = len(faces)
    rows = []
    for s in range(p):
        total = torch.zeros(faces.shape[1], dtype=grad.dtype)
        for t in range(len(grad)):
            total = total + faces[(t - s) % k] @ grad[t]
        rows.append(total)
    return torch.stack(rows)


def apply_word(faces: Tensor, source: Tensor, q: int) -> Tensor:
    """The first q rows of ``X * G`` by the definition of the t-product."""
    k = len(faces)
    return torch.stack(
        [sum(source[s] @ faces[(t - s) % k] for s in range(len(source))) for t in range(q)]
    )
