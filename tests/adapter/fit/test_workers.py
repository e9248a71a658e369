"""Threads of one core each: results, errors, and torch's settings afterwards."""

from __future__ import annotations

import pytest
import torch

from fuse_index.adapter.fit._workers import Workers
from tests.adapter.fit.fitting import CPU


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_threads_are_restored(threads):
    with Workers(CPU) as workers:
        assert torch.get_num_threads() == 1
        assert workers.map(lambda a, b: a * b, range(50), range(50)) == [i * i for i in range(50)]
        assert workers.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == threads


def test_errors_reach_the_caller_and_threads_are_restored(threads):
    def fail(value):
        raise ValueError(value)

    with pytest.raises(ValueError, match="7"), Workers(CPU) as workers:
        workers.map(fail, [7])
    assert torch.get_num_threads() == threads


def test_tasks_record_no_gradient(threads):
    weight = torch.ones(3, requires_grad=True)
    with Workers(CPU) as workers:
        assert not workers.submit(lambda: weight * 2).result().requires_grad


@pytest.mark.parametrize("mode", [False, True])
def test_tasks_run_in_the_inference_mode_of_the_caller(threads, mode):
    with torch.inference_mode(mode), Workers(CPU) as workers:
        total = torch.zeros(2)
        workers.submit(total.add_, 1).result()
        assert total.tolist() == [1, 1]
        assert total.is_inference() == mode
