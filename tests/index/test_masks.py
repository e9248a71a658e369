"""Conditions on words, against a loop over the words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.index import IndexOptions, Kind, WordIndex
from tests.index import helpers

N = 60


@pytest.fixture(scope="module")
def index() -> WordIndex:
    sides = helpers.make_sides(N, {"source": 3, "target": 4})
    return WordIndex.build(*helpers.make_words(N), sides, IndexOptions(Kind.TOKENS))


def lengths(index: WordIndex, name: str) -> list[int]:
    (side,) = [side for side in index.vectors.sides if side.name == name]
    return side.tokens.lengths.tolist()


@pytest.mark.parametrize(
    ("conditions", "fits"),
    [
        ({"upper": True}, lambda word, *_: word[0].isupper()),
        ({"upper": False}, lambda word, *_: not word[0].isupper()),
        ({"alphabetic": True}, lambda word, *_: word.isalpha()),
        ({"count": (10, 20)}, lambda _, count, *__: 10 <= count <= 20),
        ({"tokens": {"source": 1}}, lambda _, __, p, ___: p == 1),
        (
            {"tokens": {"source": (2, 3), "target": (1, 2)}},
            lambda _, __, p, q: 2 <= p <= 3 and q <= 2,
        ),
        ({"ids": [3, 4, 5], "exclude": [4]}, None),
        (
            {"upper": True, "alphabetic": True},
            lambda word, *_: word[0].isupper() and word.isalpha(),
        ),
    ],
)
def test_every_condition(index, conditions, fits):
    mask = index.mask(**conditions)
    p, q = lengths(index, "source"), lengths(index, "target")
    if fits is None:
        want = [i in (3, 5) for i in range(N)]
    else:
        want = [
            fits(word, count, p[i], q[i])
            for i, (word, count) in enumerate(zip(index.words, index.counts, strict=True))
        ]
    assert mask.allowed.tolist() == want
    assert 0 < mask.count == sum(want) < N
    ids, _ = index.search(torch.randn(3, 7), mask.count, mask)
    assert [sorted(row) for row in ids.tolist()] == [np.flatnonzero(want).tolist()] * 3


def test_masks_are_combined(index):
    odd, low = index.mask(ids=range(1, N, 2)), index.mask(ids=range(10))
    assert (odd & low).ids.tolist() == [1, 3, 5, 7, 9]
    assert (odd | low).count == 35
    assert (~odd).ids.tolist() == list(range(0, N, 2))
    assert index.mask(ids=odd.allowed).ids.tolist() == odd.ids.tolist()
    assert index.mask(ids=torch.tensor([2, 1])).ids.tolist() == [1, 2]
