"""Losses of candidates: each distinct prompt is run once, and remembered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.models.batching import BatchSize
from fuse_index.objectives.base import Loss, require_finite
from fuse_index.optimize.items import Mask
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.state import Ids, Losses
from fuse_index.predict.spent import Spent
from fuse_index.predict.target import Target, TargetPrompts
from fuse_index.words.ragged import Ragged

_Part = tuple[NDArray[np.int64], Ragged, Tensor]
"""Which prompts a batch has, in the model's tokens, and their losses (b,), perhaps under way."""

_CPU_BATCH = 64
_GPU_BATCH = 512


class Scorer:
    """Scores prompts by the losses of a problem.

    Args:
        problem: the losses.
        spent: counts the prompts.
        batch_size: prompts of one forward pass, at most; None takes 512 on a GPU and 64 on a CPU.
        remember: prompts whose losses are remembered; the oldest are forgotten.

    Attributes:
        batch_sizes: one for every loss, learned as it goes.
    """

    def __init__(
        self,
        problem: Problem,
        spent: Spent,
        *,
        batch_size: int | None = None,
        remember: int = 1 << 17,
    ) -> None:
        self.problem, self.spent = problem, spent
        self.batch_size, self.remember = batch_size, remember
        self.batch_sizes = tuple(
            BatchSize(batch_size or default_batch(loss)) for loss in problem.losses
        )
        self._everything = problem.items.everything()
        self._memory: dict[bytes, NDArray[np.float64]] = {}

    def score(
        self, prompts: Ragged, base: Ids | None = None, counting: Mask | None = None
    ) -> Losses:
        """Return the losses of prompts.

        Args:
            prompts: ``n`` rows of source ids.
            base: the prompt they were made from, if from one: those that differ from it late run
                together, so that what they share is computed once.
            counting: ``(losses,)``, which are wanted; by default all.

        Returns:
            ``(n, losses)`` float64; infinity in a row that is empty, or has no room in a model, NaN
            where a loss is neither wanted nor remembered.

        Raises:
            LossError: a loss is not finite; the message names the objective and the prompt.
        """
        keys = row_keys(prompts)
        groups: dict[bytes, dict[bytes, int]] = {}
        for i, key in enumerate(keys):
            missing = self._missing(key, counting)
            if missing is not None:
                groups.setdefault(missing.tobytes(), {})[key] = i
        self.spent.recalled += len(keys) - sum(map(len, groups.values()))
        for wanted, fresh in groups.items():
            rows = np.fromiter(fresh.values(), np.int64, len(fresh))
            rows = rows[by_agreement(prompts.select(rows), base)]
            losses = self._run(prompts.select(rows), np.frombuffer(wanted, bool))
            for row, values in zip(rows.tolist(), losses, strict=True):
                self._remember(keys[row], values)
        found = np.stack([self._memory[key] for key in keys])
        while len(self._memory) > self.remember:
            del self._memory[next(iter(self._memory))]
        return found

    def _missing(self, key: bytes, counting: Mask | None) -> Mask | None:
        """Which losses of a prompt are wanted and not remembered; None where none is."""
        wanted = self._everything if counting is None else counting
        known = self._memory.get(key)
        if known is None or self.problem.items.simple:
            return wanted if known is None else None
        missing: Mask = wanted & np.isnan(known)
        return missing if missing.any() else None

    def _remember(self, key: bytes, values: NDArray[np.float64]) -> None:
        known = self._memory.get(key)
        if known is None:
            self._memory[key] = values
        else:
            known[:] = np.where(np.isnan(values), known, values)

    def remembers(self, prompts: Ragged, counting: Mask | None = None) -> NDArray[np.bool_]:
        """``(n,)``: which prompts' losses are remembered and cost nothing.

        Args:
            prompts: ``n`` rows of source ids.
            counting: ``(losses,)``, which are meant; by default all.
        """
        keys = row_keys(prompts)
        return np.array([self._missing(key, counting) is None for key in keys], dtype=bool)

    def _run(self, prompts: Ragged, wanted: Mask) -> Losses:
        """Score distinct prompts by some losses; of all of them it is seen whether they have room.

        Nothing here waits for a GPU until every loss is launched: while one runs a model, the host
        reads the prompts for the next one, and models on different devices run at the same time. So
        a prompt that has no room in a later model has been run by the earlier ones; it is left out
        afterwards, and not counted.
        """
        problem = self.problem
        rows = np.arange(len(prompts))
        read: dict[Target, TargetPrompts] = {}
        started: dict[int, tuple[NDArray[np.int64], list[_Part]]] = {}
        for index in _source_first(problem.targets):
            target = problem.targets[index]
            if target not in read:
                read[target] = target.read(prompts)
            contents = read[target].contents
            rows = rows[problem.has_room(index, contents.lengths[rows])]
            if wanted[index]:
                started[index] = rows, self._start(index, contents.select(rows))
        self.spent.scored += len(rows) * problem.passes(wanted)
        losses = np.full((len(prompts), len(problem.losses)), np.inf)
        losses[rows] = np.nan
        for index, (run, parts) in sorted(started.items()):
            self.spent.run_forward(
                problem.losses[index], read[problem.targets[index]].contents.lengths[run]
            )
            kept = np.isin(run, rows, assume_unique=True)
            losses[rows, index] = _finished(parts, kept, problem.losses[index])
        return losses

    def _start(self, index: int, contents: Ragged) -> list[_Part]:
        """Launch one loss, batch by batch."""
        problem, size = self.problem, self.batch_sizes[index]
        loss = problem.losses[index]
        found = problem.runner.outputs(index, loss, contents, size)
        return [(rows, contents.select(rows), loss.from_outputs(own)) for rows, own in found]

    def memory(self) -> tuple[Ragged, Losses]:
        """Return the prompts that are remembered, oldest first, with their losses."""
        rows = [np.frombuffer(key, np.int64) for key in self._memory]
        size = len(self.problem.losses)
        losses = np.array(list(self._memory.values())).reshape(len(rows), size)
        return Ragged.from_lists([row.tolist() for row in rows]), losses

    def restore(self, prompts: Ragged, losses: Losses) -> None:
        """Remember what :meth:`memory` returned, and nothing else."""
        self._memory = dict(zip(row_keys(prompts), losses, strict=True))


def default_batch(loss: Loss) -> int:
    """Prompts of one forward pass, where nothing else was asked for."""
    return _GPU_BATCH if on_gpu(loss) else _CPU_BATCH


def on_gpu(loss: Loss) -> bool:
    """Whether a loss is computed on a GPU."""
    return loss.model.device.type == "cuda"


def _source_first(targets: Sequence[Target]) -> list[int]:
    """The losses in the order they are launched: first those whose rows need not be read anew."""
    return sorted(range(len(targets)), key=lambda index: not targets[index].same_tokens)


def _finished(parts: Sequence[_Part], kept: NDArray[np.bool_], loss: Loss) -> Losses:
    """Wait for a loss's batches; returns the losses of the rows that are kept.

    Raises:
        LossError: one of them is not finite.
    """
    if not parts:
        return np.zeros(0)
    found: Losses = np.empty(len(kept))
    rows = np.concatenate([own for own, _, _ in parts])
    found[rows] = torch.cat([values for _, _, values in parts]).double().cpu().numpy()
    bad = kept & ~np.isfinite(found)
    for own, contents, values in parts if bad.any() else ():
        inside = torch.from_numpy(~bad[own]).to(values.device)
        require_finite(values.masked_fill(inside, 0.0), loss, loss.batch(contents))
    return found[kept]


def row_keys(prompts: Ragged) -> list[bytes]:
    """Return one key a row, equal for equal rows."""
    packed = prompts.values.tobytes()
    bounds = (prompts.offsets * prompts.values.itemsize).tolist()
    return [packed[a:b] for a, b in pairwise(bounds)]


def distinct_rows(prompts: Ragged, but: Iterable[Sequence[int]] = ()) -> NDArray[np.int64]:
    """Return which rows to keep so that none occurs twice or is one of ``but``; the first stays."""
    seen = {np.asarray(ids, np.int64).tobytes() for ids in but}
    kept = []
    for i, key in enumerate(row_keys(prompts)):
        if key not in seen:
            seen.add(key)
            kept.append(i)
    return np.array(kept, dtype=np.int64)


def by_agreement(prompts: Ragged, base: Ids | None) -> NDArray[np.int64]:
    """Order rows so that those with a long common beginning stand together.

    With a base: by how long they agree with it, the longest first, and by length. Without: by their
    ids.
    """
    width = int(prompts.lengths.max(initial=0))
    padded = prompts.padded(width)
    if base is None:
        return np.lexsort(padded.T[::-1]) if width else np.arange(len(prompts))
    target = np.full(width, -2, np.int64)
    target[: min(width, len(base))] = base[:width]
    agreed = np.logical_and.accumulate(padded == target, axis=1).sum(axis=1)
    return np.lexsort((prompts.lengths, -agreed))
