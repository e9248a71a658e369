"""Layouts, float64 oracles and devices shared by the tests of the operators."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Relative error in the Frobenius norm against float64 (issue: float32 2e-6, bfloat16 1e-2).
TOLERANCE = {
    torch.float64: 1e-14,
    torch.float32: 2e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 1e-2,
}


class Case(NamedTuple):
    """Arguments of the word operators.

    Attributes:
        source: ``(P, d_src)``.
        target: ``(Q, d_tgt)``.
        faces: ``(F, d_src, d_tgt)``.
        layout: face_offsets, word_groups, source_offsets, target_offsets.
    """

    source: Tensor
    target: Tensor
    faces: Tensor
    layout: tuple[Tensor, Tensor, Tensor, Tensor]


def offsets(counts: list[int]) -> Tensor:
    """``(n,) -> (n + 1,)`` int64."""
    return torch.tensor([0, *counts]).cumsum(0)


def make_case(
    words: list[tuple[int, int, int]],
    tubes: list[int],
    d_src: int,
    d_tgt: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
) -> Case:
    """Draw random tensors for words given as (group, p, q) and groups given by tube length."""
    rng = torch.Generator().manual_seed(seed)
    source_offsets = offsets([p for _, p, _ in words])
    target_offsets = offsets([q for _, _, q in words])

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype).to(device)

    layout = (offsets(tubes), torch.tensor([g for g, _, _ in words]).long())
    layout = tuple(v.to(device) for v in (*layout, source_offsets, target_offsets))
    return Case(
        draw(int(source_offsets[-1]), d_src),
        draw(int(target_offsets[-1]), d_tgt),
        draw(sum(tubes), d_src, d_tgt),
        layout,
    )


def _words(case: Case):
    face_offsets, groups, source, target = (v.tolist() for v in case.layout)
    for w, group in enumerate(groups):
        first, k = face_offsets[group], face_offsets[group + 1] - face_offsets[group]
        for s in range(source[w + 1] - source[w]):
            for t in range(target[w + 1] - target[w]):
                yield source[w] + s, target[w] + t, first + (t - s) % k


def brute_pull_back(case: Case) -> Tensor:
    """The definition, one pair of tokens at a time, in float64 on the CPU."""
    g, faces = case.target.cpu().double(), case.faces.cpu().double()
    out = torch.zeros(case.source.shape[0], faces.shape[1], dtype=torch.float64)
    for s, t, face in _words(case):
        out[s] += faces[face] @ g[t]
    return out


def brute_push_forward(case: Case) -> Tensor:
    """The definition, one pair of tokens at a time, in float64 on the CPU."""
    x, faces = case.source.cpu().double(), case.faces.cpu().double()
    out = torch.zeros(case.target.shape[0], faces.shape[2], dtype=torch.float64)
    for s, t, face in _words(case):
        out[t] += x[s] @ faces[face]
    return out


def brute_face_grad(case: Case) -> Tensor:
    """The definition, one pair of tokens at a time, in float64 on the CPU."""
    x, g = case.source.cpu().double(), case.target.cpu().double()
    out = torch.zeros(case.faces.shape, dtype=torch.float64)
    for s, t, face in _words(case):
        out[face] += torch.outer(x[s], g[t])
    return out


def relative_error(out: Tensor, expected: Tensor) -> float:
    """``||out - expected|| / ||expected||``; 0 when both are empty or zero, NaN never passes."""
    assert out.shape == expected.shape
    scale = float(expected.norm())
    error = float((out.cpu().double() - expected).norm())
    return error / scale if scale else error


# Every tube length up to 6, counts past the tube length, empty words, a group without words.
WORDS = [
    (0, 1, 1),
    (3, 4, 2),
    (1, 1, 2),
    (0, 1, 1),
    (4, 5, 6),
    (2, 3, 3),
    (5, 3, 7),
    (3, 2, 4),
    (2, 3, 1),
    (1, 2, 2),
    (5, 1, 2),
    (0, 0, 1),
    (3, 4, 4),
    (1, 2, 0),
    (7, 2, 5),
    (2, 4, 5),
]
TUBES = [1, 2, 3, 4, 6, 1, 2, 5]
