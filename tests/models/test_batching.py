"""How many prompts a model takes at once, learned from running out of memory."""

from __future__ import annotations

import pytest
import torch

from fuse_index.errors import OptionError
from fuse_index.models.batching import BatchSize, out_of_memory


def test_a_batch_halves_when_memory_runs_out_and_grows_again():
    size = BatchSize(16)
    limit = 5
    done: list[int] = []

    def run(part: slice) -> int:
        if part.stop - part.start > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(part.stop - part.start)
        return part.start

    assert [start for _, start in size.map(12, run)] == [0, 3, 6, 9]
    assert done == [3, 3, 3, 3]
    limit = 100
    list(size.map(4 * 40, run))
    assert size.size == 6


def test_a_size_that_failed_twice_is_not_tried_again():
    size = BatchSize(4)

    def run(part: slice) -> None:
        if part.stop - part.start > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    list(size.map(400, run))
    assert size.most == 2
    assert size.size == 2


def test_other_errors_and_single_prompts_pass_through():
    def broken(part: slice) -> None:
        raise RuntimeError("shapes differ")

    def full(part: slice) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(BatchSize(8).map(8, broken))
    with pytest.raises(torch.OutOfMemoryError):
        list(BatchSize(8).map(8, full))


def test_what_was_learned_can_be_restored():
    size = BatchSize(8)
    size.size, size.most = 2, 4
    other = BatchSize(8)
    other.load_json(size.to_json())
    assert other.to_json() == size.to_json()


def test_a_size_below_one_is_refused():
    with pytest.raises(OptionError, match="batch_size=0; expected at least 1"):
        BatchSize(0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("HIP out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_errors_that_say_that_memory_ran_out(error, expected):
    assert out_of_memory(error) is expected
