"""Rankings: the best units of a position, and of all positions together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.predict import Ranking


def test_the_best_units_of_each_position():
    changes = torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 9.0, 5.0, -1.0]])
    assert Ranking(changes).best(2).tolist() == [[1, 2], [3, 0]]
    assert Ranking(changes).best(99).tolist() == [[1, 2, 3, 0], [3, 0, 2, 1]]


@given(
    seed=st.integers(0, 10_000),
    positions=st.integers(1, 5),
    units=st.integers(2, 9),
    count=st.integers(1, 60),
)
def test_the_best_replacements_against_brute_force(
    seed: int, positions: int, units: int, count: int
) -> None:
    """Units are compared by what they change of those that stand, which are left out."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn((positions, units), generator=generator)
    standing = torch.randint(-1, units, (positions,), generator=generator)
    changes = {}
    for position, here in enumerate(standing.tolist()):
        base = 0.0 if here < 0 else float(scores[position, here])
        for unit in range(units):
            if unit != here:
                changes[position, unit] = float(scores[position, unit]) - base
    at, found = Ranking(scores, standing).best_of_all(count)
    got = list(zip(at.tolist(), found.tolist(), strict=True))
    assert len(got) == len(set(got)) == min(count, len(changes))
    ranked = sorted(changes.values())
    assert [changes[swap] for swap in got] == pytest.approx(ranked[: len(got)], abs=1e-6)


def test_corrections_are_made_position_by_position():
    changes, standing = torch.arange(6.0).reshape(2, 3), torch.tensor([0, 2])
    found = Ranking(changes, standing).corrected(lambda index, own: own * (index + 1) - 1)
    assert found.changes.tolist() == [[-1.0, 0.0, 1.0], [5.0, 7.0, 9.0]]
    assert found.standing is standing
