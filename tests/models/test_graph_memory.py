"""Recordings share memory, and what they hold together is bounded."""

from __future__ import annotations

import gc
from collections.abc import Hashable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fuse_index.models import graph_memory as module
from fuse_index.models.batching import BatchSize
from fuse_index.models.graph_memory import GraphMemory
from fuse_index.models.graphs import GraphCache


class Recordings:
    """What a loss has of recordings."""

    def __init__(self, memory: GraphMemory) -> None:
        self.memory = memory
        self.kept: set[Hashable] = set()

    def record(self, key: str, size: int) -> bool:
        self.kept.add(key)
        self.pool = self.memory.pool()
        return self.memory.add(self.pool, self, key, size)

    def drop(self, key: Hashable) -> None:
        self.kept.discard(key)
        self.pool.members.get(self, set()).discard(key)  # as a loss's own recordings do


class Device:
    """So many bytes, of which the recordings take what they hold."""

    def __init__(self, size: int) -> None:
        handles: Iterator[int] = count()
        self.memory = GraphMemory(lambda: size - self.memory.held, lambda: next(handles))


def test_recordings_share_a_pool_until_it_is_half_of_the_limit() -> None:
    memory = Device(400).memory
    own = Recordings(memory)
    assert own.record("a", 30)
    first = own.pool
    assert memory.limit == 100
    assert own.record("b", 30)
    assert own.pool is first
    assert own.record("c", 10)
    assert own.pool is not first
    assert memory.held == 70
    assert own.kept == {"a", "b", "c"}


def test_the_pool_used_least_recently_goes_with_all_its_recordings() -> None:
    memory = Device(400).memory
    one, other = Recordings(memory), Recordings(memory)
    one.record("a", 30)
    other.record("b", 30)
    one.record("c", 30)
    assert memory.held == 90
    one.record("d", 30)  # into the pool of c
    assert (one.kept, other.kept) == ({"c", "d"}, set())
    assert memory.held == 60


def test_a_loss_lets_all_its_recordings_of_a_pool_go() -> None:
    memory = Device(400).memory
    cache: Any = GraphCache(SimpleNamespace(device=torch.device("cpu")))  # type: ignore[arg-type]
    pool = memory.pool()
    for key in ("a", "b", "c"):
        cache._recordings[key] = SimpleNamespace(pool=pool)
        memory.add(pool, cache, key, 10)
    assert memory.clear()
    assert (len(cache._recordings), memory.held) == (0, 0)


def test_a_pool_that_is_used_stays() -> None:
    memory = Device(400).memory
    one, other, third = (Recordings(memory) for _ in range(3))
    one.record("a", 50)
    other.record("b", 50)
    memory.touch(one.pool)
    third.record("c", 10)
    assert (one.kept, other.kept, third.kept) == ({"a"}, set(), {"c"})


def test_what_does_not_fit_by_itself_is_dropped() -> None:
    memory = Device(400).memory
    own = Recordings(memory)
    assert own.record("a", 10)
    assert not own.record("b", 101)
    assert own.kept == set()
    assert memory.held == 0
    assert own.record("a", 10)


def test_the_limit_follows_what_the_device_has_left() -> None:
    left = 1000
    memory = GraphMemory(lambda: left, lambda: 0)
    own = Recordings(memory)
    assert own.record("a", 100)
    left = 80
    assert own.record("b", 0)  # 180 in all, of which a quarter may be held
    assert own.kept == set()


def test_recordings_of_a_loss_that_is_gone_count_no_more() -> None:
    memory = Device(400).memory
    own, other = Recordings(memory), Recordings(memory)
    own.record("a", 80)
    del own
    gc.collect()
    assert memory.held == 0
    other.record("a", 90)
    assert other.kept == {"a"}


def test_memory_that_runs_out_is_taken_from_recordings_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Device(400).memory
    monkeypatch.setattr(module, "_MEMORIES", {(0, 0): memory})
    own = Recordings(memory)
    own.record("a", 80)
    done: list[Any] = []

    def run(part: slice) -> None:
        if own.kept or part.stop - part.start > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(part.stop - part.start)

    size = BatchSize(4)
    list(size.map(8, run))
    assert done == [4, 4]
    assert size.size == 4
    list(BatchSize(8).map(8, run))
    assert done == [4, 4, 4, 4]
