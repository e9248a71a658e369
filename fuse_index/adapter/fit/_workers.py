"""Independent tensor operations on threads of one core each.

Torch splits one operation over its threads and lets them meet at a barrier, often thousands of
times in one factorization. On a machine that others use too, a thread that waits for its turn
holds up all the others at each of them: fits were measured ten times slower with two busy
neighbours on two cores. Tasks that meet rarely do not suffer, are as fast on an idle machine, and,
as every one runs on one core, give the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Workers:
    """Runs tasks in parallel on a CPU, and at once on other devices.

    To be used as a context manager. Inside it, torch's operations run on one thread each, and as
    many tasks run at a time as torch had threads before; the number of threads is restored.

    Args:
        device: of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self._threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._inference = torch.is_inference_mode_enabled()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self._threads > 1:
            torch.set_num_threads(1)
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="fuse_index")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            torch.set_num_threads(self._threads)

    def submit(self, task: Callable[..., T], *arguments: Any) -> Future[T]:
        """Start ``task(*arguments)``; exceptions are raised by the result."""
        if self._pool is not None:
            return self._pool.submit(self._run, task, *arguments)
        done: Future[T] = Future()
        try:
            done.set_result(self._run(task, *arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def map(self, task: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
        """Return ``[task(*a) for a in zip(*arguments)]``, computed in parallel."""
        futures = [self.submit(task, *each) for each in zip(*arguments, strict=True)]
        return [future.result() for future in futures]

    def _run(self, task: Callable[..., T], *arguments: Any) -> T:
        with torch.inference_mode(self._inference), torch.no_grad():  # modes belong to threads
            return task(*arguments)
