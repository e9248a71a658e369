"""The memory of CUDA-graph recordings: shared where they may share it, and bounded.

What a recorded pass computes on the way lies in a pool. Recordings of one pool use its memory one
after another, so that it is as large as the largest of them needs, if they are recorded on one
stream. CUDA gives a pool's memory back only once all recordings of it are gone. So a device has few
pools, filled one after another, and where they take too much, the one that was used least recently
is dropped with all its recordings.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

SHARE = 4
"""Recordings take at most this part of what the device has beside everything else: a quarter."""
_POOLS = 2
"""A pool that has this part of the limit is full. Few, because different pools share nothing."""


class Holder(Protocol):
    """Has recordings."""

    def drop(self, key: Hashable) -> None:
        """Let a recording go."""


@dataclass(eq=False)
class Pool:
    """The recordings that share memory.

    Attributes:
        handle: what CUDA calls it.
        held: bytes.
        members: the keys of its recordings by who has them; one that is gone has none.
    """

    handle: Any
    held: int = 0
    members: WeakKeyDictionary[Holder, set[Hashable]] = field(default_factory=WeakKeyDictionary)


class GraphMemory:
    """The pools of one stream of one device.

    Args:
        free: returns how many bytes the device has left.
        make: makes the handle of a pool.
        stream: on which all passes are recorded.

    Attributes:
        lock: held while one records or replays, because recordings write where others do.
        limit: bytes that recordings may hold, as of the latest one.
    """

    def __init__(
        self, free: Callable[[], int], make: Callable[[], Any], stream: Any = None
    ) -> None:
        self.lock = threading.RLock()
        self.stream = stream
        self.limit: int | None = None
        self._free, self._make = free, make
        self._pools: list[Pool] = []  # the one used last comes last
        self._filling: Pool | None = None

    @property
    def held(self) -> int:
        """Bytes of all recordings that are there."""
        self._pools = [pool for pool in self._pools if any(pool.members.values())]
        return sum(pool.held for pool in self._pools)

    def pool(self) -> Pool:
        """Return the pool that the next recording goes into."""
        own = self._filling
        full = own is not None and self.limit is not None and own.held * _POOLS >= self.limit
        if own is None or full or not any(own.members.values()):
            own = self._filling = Pool(self._make())
        return own

    def close(self, stream: Any = None) -> None:
        """Have the next recording go into another pool, and on another stream: one has failed."""
        self._filling, self.stream = None, stream

    def add(self, pool: Pool, holder: Holder, key: Hashable, size: int) -> bool:
        """Count a recording, and drop what then is too much.

        Args:
            pool: where it is.
            holder: who has it.
            key: its name there.
            size: bytes by which the pool has grown.

        Returns:
            Whether it fits by itself; one that does not is dropped.
        """
        pool.held += size
        pool.members.setdefault(holder, set()).add(key)
        self.touch(pool)
        self.limit = (max(self._free(), 0) + self.held) // SHARE
        while self._pools and self.held > self.limit:
            self._drop(self._pools[0])
        return size <= self.limit

    def touch(self, pool: Pool) -> None:
        """Count a pool as used."""
        if self._pools and self._pools[-1] is pool:
            return
        self._pools = [*(own for own in self._pools if own is not pool), pool]

    def clear(self) -> bool:
        """Drop all recordings; returns whether there were any."""
        some = self.held > 0
        for pool in tuple(self._pools):
            self._drop(pool)
        return some

    def _drop(self, pool: Pool) -> None:
        for holder, keys in tuple(pool.members.items()):
            for key in tuple(keys):  # who drops one takes it out of the set
                holder.drop(key)
        pool.members.clear()
        self._pools.remove(pool)


_MEMORIES: dict[tuple[int, int], GraphMemory] = {}


def graph_memory(device: torch.device) -> GraphMemory:
    """Return the memory of recordings that are replayed on a GPU's current stream."""
    stream = torch.cuda.current_stream(device)
    key = stream.device_index, stream.cuda_stream
    if key not in _MEMORIES:
        _MEMORIES[key] = GraphMemory(
            lambda: torch.cuda.mem_get_info(device)[0],
            torch.cuda.graph_pool_handle,
            torch.cuda.Stream(device),  # type: ignore[no-untyped-call]
        )
    return _MEMORIES[key]


def drop_recordings() -> bool:
    """Drop the recordings of all devices, as when memory runs out; returns whether any were."""
    return sum(memory.clear() for memory in _MEMORIES.values()) > 0
