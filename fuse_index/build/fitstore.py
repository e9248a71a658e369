"""Keeps the sums and adapters of a fit that is under way."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.adapter.fit.fit import FoundGroup
from fuse_index.adapter.fit.gram import GroupGram
from fuse_index.adapter.fit.lstsq import Summing, Tick, empty_sums, sum_chunks
from fuse_index.adapter.fit.stream import Problem

State = dict[str, NDArray[Any]]
Shard = tuple[int, int]
Sums = Callable[[Problem, torch.dtype, bool, list[Shard]], Iterator[State]]
"""Sums the given shards of a problem, and yields the sums in the order of the shards."""


def sum_here(
    problem: Problem, dtype: torch.dtype, energy: bool, shards: list[Shard]
) -> Iterator[State]:
    """Sum shards in this process, one after the other."""
    assert problem.shards is not None
    for shard in shards:
        yield sum_chunks(problem.shards.problem(*shard), dtype, energy).state()


class FileFitStore:
    """Keeps what a fit has done in a folder.

    Args:
        folder: for the files.
        sums: who sums shards: this process, or a cluster.
        checkpoint: called when something was kept.
    """

    def __init__(
        self, folder: Path, sums: Sums = sum_here, checkpoint: Callable[[], None] | None = None
    ) -> None:
        self._folder = folder
        self._sums = sums
        self._checkpoint = checkpoint

    def load_group(self, number: int) -> FoundGroup | None:
        """Return what was found for a group, ``None`` if it is still to do."""
        arrays = _load(self._path("group", number))
        if arrays is None:
            return None
        facts = json.loads(arrays["facts"].tobytes())
        return FoundGroup(
            adapter=arrays.get("adapter"), common=_load(self._path("common", number)), **facts
        )

    def save_group(self, number: int, found: FoundGroup) -> None:
        """Keep what was found for a group."""
        assert found.common is not None
        facts = {
            "fallback": found.fallback,
            "ridge": found.ridge,
            "method": found.method,
            "single": found.single,
        }
        arrays: State = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
        if found.adapter is not None:
            arrays["adapter"] = found.adapter
        _save(self._path("common", number), found.common)
        _save(self._path("group", number), arrays)
        self._path("common", number - 1).unlink(missing_ok=True)
        for path in self._folder.glob(f"sums-{number:04d}-*"):
            path.unlink()

    def summing(self, number: int) -> Summing:
        """Return what makes the sums of a group of several shards, and keeps them as they grow."""

        def summing(
            problem: Problem, dtype: torch.dtype, energy: bool, tick: Tick | None
        ) -> GroupGram:
            assert problem.shards is not None
            name = str(dtype).removeprefix("torch.")
            path = self._folder / f"sums-{number:04d}-{name}.npz"
            step, rows = problem.shards.words, problem.rows
            shards = [(start, min(start + step, rows)) for start in range(0, rows, step)]
            total, done = empty_sums(problem, energy), 0
            before = _load(path)
            if before is not None:
                done = int(before.pop("done")[0])
                total.add_state(before)
                _report(tick, shards[:done])
            for shard, state in zip(
                shards[done:], self._sums(problem, dtype, energy, shards[done:]), strict=True
            ):
                total.add_state(state)
                done += 1
                _save(path, {**total.state(), "done": np.array([done])})
                if self._checkpoint is not None:
                    self._checkpoint()
                _report(tick, [shard])
            return total

        return summing

    def _path(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number:04d}.npz"


def _report(tick: Tick | None, shards: list[Shard]) -> None:
    if tick is not None:
        tick(sum(stop - start for start, stop in shards))


def _load(path: Path) -> State | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _save(path: Path, arrays: State) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as stream:
        stream.write(buffer.getbuffer())
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
