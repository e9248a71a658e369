"""The shards of a build on a Ray cluster.

Shards of the corpus go through Ray Data, shards of words and their sums are tasks. What a lost
worker was doing is done again by another one; what is done comes back to this process, which keeps
it and adds the sums up in the order of the shards. So the result depends neither on the number of
workers nor on their fate: it is the one of a single machine.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuse_index import errors
from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.lstsq import sum_chunks
from fuse_index.adapter.fit.stored import StoredRows, StoredStream
from fuse_index.adapter.fit.stream import Ids, Problem
from fuse_index.build.execute import Report, Tabulator, Words
from fuse_index.build.fitstore import Shard, State
from fuse_index.errors import ClusterError, FuseIndexError, MissingDependencyError, OptionError
from fuse_index.words.corpus.counting import DEFAULT_MEMORY, Engine, count_shard
from fuse_index.words.corpus.reading import Source
from fuse_index.words.corpus.words import WordCounts

logger = logging.getLogger(__name__)

AUTO = "auto"
_ANSWER_SECONDS = 5.0
_RETRIES = 3
_AHEAD = 2  # shards under way for every core of the cluster


class Cluster:
    """Does shards on a Ray cluster; use as a context manager.

    Args:
        address: ``host:port`` or ``ray://host:port``; ``"auto"`` takes the cluster that this
            process or machine belongs to, or starts one here.

    Raises:
        MissingDependencyError: Ray is not installed.
        ClusterError: nobody answers at the address.
    """

    def __init__(self, address: str = AUTO) -> None:
        self._address = address
        self._ray = _import_ray()
        self._started = False

    def __enter__(self) -> Cluster:
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
        for name in ("ray", "ray.data"):  # what matters of it comes as an error of ours
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self._ray.init(**settings)
        except Exception as error:  # of many kinds, depending on what is at the address
            raise _no_answer(self._address, error) from error

    def count(
        self,
        jobs: Sequence[tuple[Source, Path]],
        encoding: str,
        engine: Engine,
        report: Report,
        done: Callable[[], None],
    ) -> None:
        """Count shards of the corpus into files, in any order."""
        data = _import_data()
        local = [source.name for source, _ in jobs if not source.again]
        if local:
            raise OptionError(
                f"--ray with {local[0]}",
                expected="a corpus that every worker can read",
                remedy="put the text into a file or at a URL",
            )
        if not jobs:
            return
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        memory = min(engine.memory, DEFAULT_MEMORY)
        items = [_row(number, source) for number, (source, _) in enumerate(jobs)]
        with _failures():
            shards = data.from_items(items, override_num_blocks=len(items))
            work = partial(_count_shard, encoding=encoding, memory=memory)
            for row in shards.map(work, num_cpus=1).iter_rows():
                if row["error"]:
                    raise _error(row)
                source, path = jobs[int(row["number"])]
                _place(path, row["counts"])
                report(source.size or 0)
                done()

    def tabulate(
        self,
        jobs: Sequence[tuple[tuple[int, int], Path]],
        words: Words,
        tabulator: Tabulator,
        report: Report,
        done: Callable[[], None],
    ) -> None:
        """Make parts of the word table."""
        with _failures():
            shared = self._ray.put(tabulator)
            task = self._ray.remote(max_retries=_RETRIES, num_cpus=1)(_tabulate)
            started = (task.remote(shared, words.part(*shard)) for shard, _ in jobs)
            results = self._in_order(started)
            for ((start, stop), path), data in zip(jobs, results, strict=True):
                _place(path, data)
                report(2 * (stop - start))
                done()

    @contextmanager
    def fitting(
        self, source: Tensor, target: Tensor
    ) -> Iterator[Callable[[Problem, torch.dtype, bool, list[Shard]], Iterator[State]]]:
        """Send the embeddings to the cluster once; yields what sums shards there."""
        with _failures():
            tables = [self._ray.put(side.detach().cpu().numpy()) for side in (source, target)]
        task = self._ray.remote(max_retries=_RETRIES, num_cpus=1)(_sum)

        def sums(
            problem: Problem, dtype: torch.dtype, energy: bool, shards: list[Shard]
        ) -> Iterator[State]:
            with _failures():
                parts = problem.shards
                assert parts is not None
                how = (problem.k, parts.shared, parts.chunk, dtype, energy)
                started = (task.remote(*parts.tokens(*shard), *tables, how) for shard in shards)
                yield from self._in_order(started)

        yield sums

    def _in_order(self, started: Iterator[Any]) -> Iterator[Any]:
        """Yield results in the order of the tasks, with some more under way all the time."""
        running: deque[Any] = deque()
        ahead = _AHEAD * self._cores
        for reference in started:
            running.append(reference)
            if len(running) >= ahead:
                yield self._ray.get(running.popleft())
        while running:
            yield self._ray.get(running.popleft())


def _count_shard(row: dict[str, Any], *, encoding: str, memory: int) -> dict[str, Any]:
    """Count one shard on a worker: the file of counts as bytes, or why there is none."""
    path = Path(row["path"]) if row["path"] else None
    source = Source(path, row["size"], row["url"] or None, row["start"], row["stop"])
    error = {"error": "", "given": "", "expected": "", "remedy": ""}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "counts.parquet")
        engine = Engine(Path(folder), memory, threads=1)
        try:
            count_shard(source, encoding, output, engine)
        except FuseIndexError as found:  # of the user: not to be tried again
            text = {"given": found.given, "expected": found.expected, "remedy": found.remedy}
            return {"number": row["number"], "counts": b"", "error": type(found).__name__, **text}
        return {"number": row["number"], "counts": output.read_bytes(), **error}


def _row(number: int, source: Source) -> dict[str, Any]:
    """A shard as plain values."""
    return {
        "number": number,
        "path": "" if source.path is None else str(source.path.absolute()),
        "url": source.url or "",
        "size": source.size,
        "start": source.start,
        "stop": source.stop,
    }


def _error(row: dict[str, Any]) -> FuseIndexError:
    """The error that a worker met."""
    kind = getattr(errors, row["error"], FuseIndexError)
    found: FuseIndexError = kind(row["given"], expected=row["expected"], remedy=row["remedy"])
    return found


def _portable(error: FuseIndexError) -> FuseIndexError:
    """An error of ours without what Ray put around it."""
    return type(error)(error.given, expected=error.expected, remedy=error.remedy)


def _tabulate(tabulator: Tabulator, words: WordCounts) -> bytes:
    """Make one part of the word table on a worker: its file as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "part.npz")
        tabulator.write(words, path, lambda _: None)
        return path.read_bytes()


def _sum(
    source_ids: Ids,
    target_ids: Ids,
    source: np.ndarray[Any, Any],
    target: np.ndarray[Any, Any],
    how: tuple[int, bool, int, torch.dtype, bool],
) -> State:
    """Sum the products of one shard on a worker."""
    k, shared, chunk, dtype, energy = how
    rows = np.ascontiguousarray(np.concatenate([source_ids, target_ids]).T, np.int32)
    words = StoredRows(rows, len(source_ids), len(target_ids), 0, len(rows))
    tables = [_tensor(table) for table in (source, target)]
    with Workers(torch.device("cpu")) as workers:
        stream = StoredStream(*tables, workers=workers, chunk_words=chunk)
        problem = stream.shared_problem(words, words.q) if shared else stream.problem(words, k)
        return sum_chunks(problem, dtype, energy).state()


def _tensor(table: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over an array in Ray's shared memory, which nobody writes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it must not be written
        return torch.from_numpy(table)


def _place(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


@contextmanager
def _failures() -> Iterator[None]:
    """Turn what Ray raises into one clear line; an error of ours on a worker stays what it is."""
    import ray.exceptions as raised  # noqa: PLC0415 - an extra

    try:
        yield
    except FuseIndexError:
        raise
    except raised.RayTaskError as error:
        cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
        if isinstance(cause, FuseIndexError):
            raise _portable(cause) from error
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
    """Ask whether anybody listens before Ray does, which waits long and says much."""
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


def _import_data() -> Any:
    try:
        import ray.data  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            f"--ray needs Ray Data ({error})", remedy="pip install 'fuse-index[ray]'"
        ) from error
    return ray.data


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            f"--ray needs Ray ({error})", remedy="pip install 'fuse-index[ray]'"
        ) from error
    return ray
