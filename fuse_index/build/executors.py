"""Where the shards of a build run: in this process, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from torch import Tensor

from fuse_index.adapter.fit.store import SumRanges, sum_ranges
from fuse_index.common.progress import Add

T = TypeVar("T")

Job = tuple[tuple[Any, ...], int]
"""Arguments of a task, and the units of progress that it counts for."""


class Executor(Protocol):
    """Runs tasks on shards. The results do not depend on the executor.

    Attributes:
        is_local: whether the tasks run in this process.
    """

    is_local: bool

    def run(
        self, task: Callable[..., T], shared: Any, jobs: Iterable[Job], add: Add
    ) -> Iterator[T]:
        """Yield ``task(shared, *arguments, add)`` for every job, in the order of the jobs.

        Args:
            task: a function of a module.
            shared: sent to every worker once.
            jobs: taken one after the other, not long before they run.
            add: called with the units of progress done since the last call.
        """

    def sums(self, source: Tensor, target: Tensor) -> SumRanges:
        """Return a function that sums ranges of words with these embeddings."""


class LocalExecutor:
    """Runs one task after the other in this process."""

    is_local = True

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(
        self, task: Callable[..., T], shared: Any, jobs: Iterable[Job], add: Add
    ) -> Iterator[T]:
        """See :meth:`Executor.run`."""
        for arguments, _ in jobs:
            yield task(shared, *arguments, add)

    def sums(self, source: Tensor, target: Tensor) -> SumRanges:
        """Sum with the workers of the fit."""
        del source, target
        return sum_ranges
