"""Keeps the words, sums and adapters of a fit in files, so that an interrupted fit continues."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.adapter.fit.gram import GroupGram
from fuse_index.adapter.fit.lstsq import Summing, empty_sums, sum_chunks
from fuse_index.adapter.fit.stream import LeastSquares
from fuse_index.common.files import write_atomically
from fuse_index.common.progress import Add

State = dict[str, NDArray[Any]]
Range = tuple[int, int]
SumRanges = Callable[[LeastSquares, torch.dtype, bool, list[Range]], Iterator[State]]
"""Sums ranges of a problem's words, and yields the sums in the order of the ranges."""


@dataclass(frozen=True)
class FoundGroup:
    """The result for one group.

    Attributes:
        adapter: ``(k, source width, target width)`` float32, if the group has one.
        fallback: why it has none.
        ridge: of the adapter.
        method: the route to it.
        single: whether float32 products are still worth a try.
        common: the fallback's sums over this group and all before it; none once it is fitted.
        kind: of the map.
        tensors: of the map, beside the adapter.
        errors: cross-validated errors by kind, where several were tried.
    """

    adapter: NDArray[np.float32] | None
    fallback: str | None
    ridge: float | None
    method: str | None
    single: bool
    common: State | None
    kind: str = "circulant"
    tensors: State = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


def sum_ranges(
    problem: LeastSquares, dtype: torch.dtype, energy: bool, ranges: list[Range]
) -> Iterator[State]:
    """Sum ranges of words in this process, one after the other."""
    assert problem.shards is not None
    for start, stop in ranges:
        yield sum_chunks(problem.shards.problem(start, stop), dtype, energy).state()


class FitStore:
    """Keeps the results of a fit in a folder.

    Args:
        folder: for the files.
        sums: sums ranges of words, in this process or on a cluster.
        checkpoint: called when something was kept.
    """

    def __init__(
        self,
        folder: Path,
        sums: SumRanges = sum_ranges,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._sums = sums
        self._checkpoint = checkpoint

    def words(self) -> Path:
        """Return the folder for the token ids of the words, by group; it exists."""
        folder = self._folder / "words"
        folder.mkdir(exist_ok=True)
        return folder

    def load_group(self, number: int) -> FoundGroup | None:
        """Return the result for a group, ``None`` where there is none yet."""
        arrays = _load(self._path("group", number))
        if arrays is None:
            return None
        facts = json.loads(arrays["facts"].tobytes())
        prefix = "map."
        return FoundGroup(
            adapter=arrays.get("adapter"),
            common=_load(self._path("common", number)),
            tensors={
                name.removeprefix(prefix): own
                for name, own in arrays.items()
                if name.startswith(prefix)
            },
            **facts,
        )

    def save_group(self, number: int, found: FoundGroup) -> None:
        """Keep the result for a group."""
        names = ("fallback", "ridge", "method", "single", "kind", "errors")
        facts = json.dumps({name: getattr(found, name) for name in names})
        arrays: State = {"facts": np.frombuffer(facts.encode(), np.uint8)}
        if found.adapter is not None:
            arrays["adapter"] = found.adapter
        arrays |= {f"map.{name}": own for name, own in found.tensors.items()}
        if found.common is not None:
            _save(self._path("common", number), found.common)
        _save(self._path("group", number), arrays)
        if found.common is not None:
            self._path("common", number - 1).unlink(missing_ok=True)
        for path in self._folder.glob(f"sums-{number:04d}-*"):
            path.unlink()

    def summing(self, number: int) -> Summing:
        """Return a function that sums a group of several shards, and keeps the sums so far."""

        def summing(
            problem: LeastSquares,
            dtype: torch.dtype,
            energy: bool,
            add: Add | None,
        ) -> GroupGram:
            assert problem.shards is not None
            name = str(dtype).removeprefix("torch.")
            path = self._folder / f"sums-{number:04d}-{name}.npz"
            step, rows = problem.shards.words, problem.rows
            ranges = [(start, min(start + step, rows)) for start in range(0, rows, step)]
            total, done = empty_sums(problem, energy), 0
            before = _load(path)
            if before is not None:
                done = int(before.pop("done")[0])
                total.add_state(before)
                _report(add, ranges[:done])
            left = ranges[done:]
            for range_, state in zip(left, self._sums(problem, dtype, energy, left), strict=True):
                total.add_state(state)
                done += 1
                _save(path, {**total.state(), "done": np.array([done])})
                self._checkpoint()
                _report(add, [range_])
            return total

        return summing

    def _path(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number:04d}.npz"


def _report(add: Add | None, ranges: list[Range]) -> None:
    if add is not None:
        add(sum(stop - start for start, stop in ranges))


def _load(path: Path) -> State | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _save(path: Path, arrays: State) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getbuffer())
