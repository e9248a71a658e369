"""What scored candidates say about others: kriging, and what it remembers."""

from __future__ import annotations

import numpy as np
import torch

from fuse_index.predict.correction import ResidualKriging, corrected, directions
from fuse_index.words.ragged import Ragged


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


def noted(memory: ResidualKriging, swaps: list[tuple[int, int]], total: float) -> Ragged:
    """Note the prompts (9, 9, 9) with one unit replaced: positions and units."""
    prompts = np.full((len(swaps), 3), 9)
    positions, units = np.array(swaps).T
    prompts[np.arange(len(swaps)), positions] = units
    rows = Ragged.from_rows(prompts)
    memory.note(rows, positions, units, total)
    return rows


def known(memory: ResidualKriging) -> dict[tuple[int, int], float]:
    tensors = memory.tensors()
    keys = [tuple(row) for row in tensors["kriging.units"].tolist()]
    return dict(zip(keys, tensors["kriging.changes"].tolist(), strict=True))


def test_changes_are_counted_from_the_prompt_that_was_swapped():
    memory = ResidualKriging(8)
    rows = noted(memory, [(0, 1), (0, 2), (2, 1)], total=5.0)
    memory.learn(rows, np.array([4.0, 7.0, np.inf]))
    assert known(memory) == {(0, 1): -1.0, (0, 2): 2.0}
    memory.learn(Ragged.from_lists([[7, 7, 7]]), np.array([1.0]))  # never noted
    assert known(memory) == {(0, 1): -1.0, (0, 2): 2.0}


def test_a_move_counts_its_position_from_the_new_prompt_and_forgets_the_rest_of_the_step():
    memory = ResidualKriging(8)
    rows = noted(memory, [(0, 1), (0, 2), (2, 1)], total=5.0)
    memory.learn(rows, np.array([4.0, 7.0, 5.5]))
    memory.move_to((1, 9, 9))
    assert known(memory) == {(0, 1): 0.0, (0, 2): 3.0, (2, 1): 0.5}
    memory.learn(rows, np.array([0.0, 0.0, 0.0]))  # no longer noted
    assert known(memory) == {(0, 1): 0.0, (0, 2): 3.0, (2, 1): 0.5}
    memory.move_to((8, 8, 8))  # a prompt that was not noted changes nothing
    assert known(memory) == {(0, 1): 0.0, (0, 2): 3.0, (2, 1): 0.5}


def test_only_the_latest_are_remembered_in_each_position():
    memory = ResidualKriging(2)
    rows = noted(memory, [(0, 1), (0, 2), (1, 5)], total=0.0)
    memory.learn(rows, np.array([1.0, 2.0, 3.0]))
    again = noted(memory, [(0, 1), (0, 4)], total=0.0)  # 1 becomes the later one of 1 and 2
    memory.learn(again, np.array([6.0, 4.0]))
    assert known(memory) == {(0, 1): 6.0, (0, 4): 4.0, (1, 5): 3.0}


def test_each_position_is_corrected_by_its_own_candidates():
    vectors, change = drawn(0, 30, 6), drawn(1, 30)
    memory = ResidualKriging(64)
    totals = drawn(2, 7).double().numpy()
    units = [3, 9, 4, 20, 25, 11, 0]
    memory.learn(noted(memory, [(1, unit) for unit in units], total=0.0), totals)
    assert memory.correct(0, change, [vectors]) is change
    found = memory.correct(1, change, [vectors])
    expected = corrected(
        change, torch.tensor(units), torch.tensor(totals).float(), [directions(vectors)]
    )
    torch.testing.assert_close(found, expected)
    other = drawn(3, 30, 4)  # vectors of another problem are taken up
    expected = corrected(
        change, torch.tensor(units), torch.tensor(totals).float(), [directions(other)]
    )
    torch.testing.assert_close(memory.correct(1, change, [other]), expected)


def test_tensors_carry_everything():
    steps = [[(0, 1), (2, 5)], [(1, 4), (1, 5), (0, 3)], [(2, 2), (0, 1)]]
    whole, resumed = ResidualKriging(3), ResidualKriging(3)
    rows = noted(whole, steps[0], total=1.0)
    whole.learn(rows, np.array([2.0, 3.0]))
    noted(whole, steps[1], total=1.5)  # not scored before the checkpoint
    resumed.load_tensors({name: value.clone() for name, value in whole.tensors().items()})
    for memory in (whole, resumed):
        made = Ragged.from_lists([[9, 4, 9], [9, 5, 9], [3, 9, 9]])
        memory.learn(made, np.array([0.5, 0.25, 4.0]))
        memory.move_to((9, 5, 9))
        memory.learn(noted(memory, steps[2], total=0.25), np.array([1.0, 2.0]))
    for name, value in whole.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name
    assert known(whole)[(1, 4)] == 0.25
