"""The shards of a build on a Ray cluster.

The task of a lost worker runs again on another one. Results return to this process, which keeps
them and adds sums up in the order of the shards, so the bundle is the one of a single machine.
"""

from __future__ import annotations

import logging
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.lstsq import sum_chunks
from fuse_index.adapter.fit.rows import Ids, WordRows
from fuse_index.adapter.fit.store import Range, State, SumRanges
from fuse_index.adapter.fit.stream import LeastSquares, WordStream
from fuse_index.build.executors import Job
from fuse_index.common.progress import Add, ignore
from fuse_index.errors import ClusterError, FuseIndexError, MissingDependencyError, OptionError

T = TypeVar("T")

logger = logging.getLogger(__name__)

AUTO = "auto"
_ANSWER_SECONDS = 5.0
_RETRIES = 3
_AHEAD = 2  # shards under way for every core of the cluster


class RayExecutor:
    """Runs shards on a Ray cluster; use as a context manager.

    Args:
        address: ``host:port`` or ``ray://host:port``; ``"auto"`` takes the cluster that this
            process or machine belongs to, or starts one here.

    Raises:
        MissingDependencyError: Ray is not installed.
        ClusterError: no cluster answers at the address.
    """

    is_local = False

    def __init__(self, address: str = AUTO) -> None:
        self._address = address
        self._ray = _import_ray()
        self._started = False

    def __enter__(self) -> RayExecutor:
        if not self._ray.is_initialized():
            self._connect()
            self._started = True
        logger.info("Ray with %d cores", self._cores)
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            self._ray.shutdown()
            self._started = False

    @property
    def _cores(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _connect(self) -> None:
        settings: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "include_dashboard": False,
        }
        if self._address != AUTO:
            _require_answer(self._address)
            settings = {"address": self._address, **settings}
            del settings["include_dashboard"]
        logging.getLogger("ray").setLevel(logging.ERROR)  # what matters is raised
        try:
            self._ray.init(**settings)
        except Exception as error:  # of many kinds, depending on what is at the address
            raise _no_answer(self._address, error) from error

    def run(
        self, task: Callable[..., T], shared: Any, jobs: Iterable[Job], add: Add
    ) -> Iterator[T]:
        """See :meth:`~fuse_index.build.executors.Executor.run`; a lost worker's job runs again."""
        with _failures():
            handle = self._ray.put(shared)
            remote = self._remote(task)
            started = ((remote.remote(handle, *given, ignore), size) for given, size in jobs)
            for result, size in self._in_order(started):
                add(size)
                yield result

    def sums(self, source: Tensor, target: Tensor) -> SumRanges:
        """Send the embeddings to the cluster once; sum ranges of words there."""
        with _failures():
            tables = [self._ray.put(side.detach().cpu().numpy()) for side in (source, target)]
        remote = self._remote(sum_task)

        def sums(
            problem: LeastSquares, dtype: torch.dtype, energy: bool, ranges: list[Range]
        ) -> Iterator[State]:
            with _failures():
                parts = problem.shards
                assert parts is not None
                centre = parts.centre and tuple(own.cpu().numpy() for own in parts.centre)
                how = (problem.k, parts.shared, parts.chunk, dtype, energy, centre)
                started = ((remote.remote(*parts.tokens(*r), *tables, how), 0) for r in ranges)
                for state, _ in self._in_order(started):
                    yield state

        return sums

    def _remote(self, task: Callable[..., Any]) -> Any:
        return self._ray.remote(max_retries=_RETRIES, num_cpus=1)(task)

    def _in_order(self, started: Iterator[tuple[Any, int]]) -> Iterator[tuple[Any, int]]:
        """Yield results in the order of the tasks, with a few more tasks running."""
        running: deque[tuple[Any, int]] = deque()
        ahead = _AHEAD * self._cores
        for task in started:
            running.append(task)
            if len(running) >= ahead:
                reference, size = running.popleft()
                yield self._ray.get(reference), size
        while running:
            reference, size = running.popleft()
            yield self._ray.get(reference), size


def sum_task(
    source_ids: Ids,
    target_ids: Ids,
    source: NDArray[Any],
    target: NDArray[Any],
    how: tuple[int, bool, int, torch.dtype, bool, tuple[NDArray[Any], NDArray[Any]] | None],
) -> State:
    """Sum the products of a range of words on a worker."""
    k, shared, chunk, dtype, energy, means = how
    centre = means and (_tensor(means[0]), _tensor(means[1]))
    ids = np.ascontiguousarray(np.concatenate([source_ids, target_ids]).T)
    words = WordRows.of(ids, len(source_ids), len(target_ids))
    tables = [_tensor(table) for table in (source, target)]
    with Workers(torch.device("cpu")) as workers:
        stream = WordStream(*tables, workers=workers, chunk_words=chunk)
        q = len(target_ids)
        if shared:
            problem = stream.shared_problem(words, q, centre)
        else:
            problem = stream.problem(words, k, centre)
        return sum_chunks(problem, dtype, energy).state()


def _tensor(table: NDArray[Any]) -> Tensor:
    """Wrap a read-only array in Ray's shared memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it must not be written
        return torch.from_numpy(table)


@contextmanager
def _failures() -> Iterator[None]:
    """Turn what Ray raises into one clear line; a FuseIndexError of a worker stays one."""
    import ray.exceptions as raised  # noqa: PLC0415 - an extra

    try:
        yield
    except FuseIndexError:
        raise
    except raised.RayTaskError as error:
        cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
        if isinstance(cause, FuseIndexError):  # without what Ray put around it
            raise type(cause)(cause.given, expected=cause.expected, remedy=cause.remedy) from error
        if isinstance(cause, raised.RayError):
            raise _lost(cause) from error
        raise
    except (raised.RayError, ConnectionError) as error:
        raise _lost(error) from error


def _lost(error: Exception) -> ClusterError:
    text = " ".join(str(error).split())[:300]
    return ClusterError(
        f"the Ray cluster lost a worker for good ({type(error).__name__}: {text})",
        expected=f"at most {_RETRIES} deaths of the workers of one shard",
        remedy="give the workers more memory, then go on with --resume",
    )


def _require_answer(address: str) -> None:
    """Check that the port is open first: Ray itself waits long and logs much."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise OptionError(
            f"--ray {address}",
            expected="HOST:PORT or ray://HOST:PORT, or no address for a cluster on this machine",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> ClusterError:
    where = "on this machine" if address == AUTO else f"at {address}"
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    return ClusterError(
        f"no Ray cluster answers {where} ({text})",
        expected="the address that 'ray start' or 'ray status' shows",
        remedy="start the cluster, check the address, or leave --ray out",
    )


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            f"--ray needs Ray ({error})", remedy="pip install 'fuse-index[ray]'"
        ) from error
    return ray
