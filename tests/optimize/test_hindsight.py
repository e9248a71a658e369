"""What scored candidates say about others: the correction, and how methods learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fuse_index.errors import OptionError
from fuse_index.optimize import (
    GCG,
    PEZ,
    AutoDAN,
    Budget,
    Greedy,
    Problem,
    Run,
    RunOptions,
    WordSwaps,
    WordWriter,
    optimize,
)
from fuse_index.optimize.hindsight import Hindsight, corrected, directions
from tests.optimize.conftest import START


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_correction_is_that_of_a_gaussian_process():
    vectors, change, values = drawn(0, 30, 6), drawn(1, 30), drawn(2, 7)
    known = torch.tensor([3, 9, 4, 20, 25, 11, 0])
    found = corrected(change, known, values, [directions(vectors)])
    units = (vectors - vectors.mean(0)).double().numpy()
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    covariance = np.exp(units @ units.T - 1) + 1
    mean = 0.3 * (change - change.mean()).double().numpy() / change.std().item()
    y = (values - values.mean()).double().numpy() / values.std().item()
    system = covariance[np.ix_(known, known)] + 0.3 * np.eye(7)
    expected = mean + covariance[:, known] @ np.linalg.inv(system) @ (y - mean[known])
    expected = expected * values.std().item() + values.mean().item()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_correction_ranks_a_smooth_function_better():
    vectors = drawn(3, 400, 8)
    truth = torch.tanh(vectors[:, 0]) + torch.sin(vectors[:, 1])
    poor = vectors[:, 0] * 0.3 + drawn(4, 400)
    known = torch.arange(64)

    def correlation(found: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([found[64:], truth[64:]]))[0, 1])

    found = corrected(poor, known, truth[known], [directions(vectors)])
    assert correlation(found) > correlation(poor) + 0.2


def test_too_few_or_equal_changes_correct_nothing():
    change, vectors = drawn(5, 9), drawn(6, 9, 3)
    assert corrected(change, torch.arange(3), drawn(7, 3), [directions(vectors)]) is change
    assert corrected(change, torch.arange(5), torch.ones(5), [directions(vectors)]) is change
    empty = torch.empty(0, dtype=torch.int64)
    assert corrected(change, empty, torch.empty(0), [directions(vectors)]) is change


def started(problem: Problem, method: GCG | WordSwaps) -> Run:
    options = RunOptions(seed=2)
    return Run(problem, [problem.encode(START)], method=method, search=Greedy(), options=options)


def test_what_swaps_changed_is_counted_from_the_prompt_that_stands(problem: Problem) -> None:
    run = started(problem, GCG(search_width=40, anchors=99, anchor_source="scored", places=2))
    memory = run.method._hindsight
    assert isinstance(memory, Hindsight)
    for _ in range(3):
        run.step()
    before = run.search.select()[0]
    memory.learn(before.ids)
    exact = 0
    for slot, own in memory._known.items():
        for token, change in own.items():
            ids = list(before.ids)
            ids[slot] = token
            total = float(run.context.totals(rows_of(ids))[0])
            exact += abs(total - before.total - change) < 1e-5
    # swaps in the place that moved last, or of a step that moved nothing, are known exactly
    assert exact >= 5


def rows_of(ids: list[int]):
    from fuse_index.words.ragged import Ragged

    return Ragged.from_lists([ids])


def test_only_the_latest_are_remembered(problem: Problem) -> None:
    run = started(problem, GCG(search_width=40, anchors=3, anchor_source="scored", places=1))
    for _ in range(3):
        run.step()
    units = run.method.tensors()["hindsight.units"]
    assert torch.bincount(units[:, 0]).max() == 3


METHODS = [
    GCG(search_width=12, anchors=32, anchor_source="scored", places=2),
    GCG(search_width=12, anchors=32, anchor_source="scored", draw="best"),
    AutoDAN(length=12, search_width=12, anchors=32, anchor_source="scored"),
    WordSwaps(search_width=12, expansion="anchors", anchors=32, anchor_source="scored", places=2),
    WordSwaps(
        search_width=12, expansion="anchors", anchors=32, anchor_source="scored", guide="mixture"
    ),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.type)
def test_hindsight_is_free_and_resumes(problem: Problem, tmp_path: Path, method: GCG) -> None:
    whole = optimize(problem, START, method=method, budget=Budget(steps=4))
    if method.type != "autodan":
        assert whole.spent["gradients"] == 4
    path = tmp_path / "run.ckpt"
    optimize(problem, START, method=method, budget=Budget(steps=2), checkpoint=path)
    again = optimize(problem, START, method=method, budget=Budget(steps=4), checkpoint=path)
    assert [p.ids for p in again.trajectory] == [p.ids for p in whole.trajectory]
    assert again.total == whole.total


def test_methods_that_cannot_learn_say_so() -> None:
    with pytest.raises(OptionError, match="pez: anchor_source 'scored'; expected another source"):
        PEZ(anchor_source="scored")
    with pytest.raises(OptionError, match="write_words: anchor_source 'scored'"):
        WordWriter(anchor_source="scored")
    with pytest.raises(OptionError, match="gcg: anchor_source 'scored' with anchor_places 'all'"):
        GCG(anchor_source="scored", anchor_places="all")
