"""Passes of models, for one run or for several.

Captions of many images begin with the same drafts, written from one seed. The same rows in one
batch give the same numbers bit for bit, so what was computed for the first image serves the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from fuse_index.models.batching import BatchSize
from fuse_index.objectives.base import Loss
from fuse_index.optimize.batches import plan_batches
from fuse_index.optimize.state import Ids
from fuse_index.optimize.writing import write_sentences
from fuse_index.predict.joint import Alone
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.causal import CausalModel
    from fuse_index.models.surroundings import Surroundings

Outputs = list[tuple[NDArray[np.int64], Tensor]]
"""Which rows a batch has, and their outputs ``(b, ...)``, which may be under way still."""

Made = TypeVar("Made")

MOST_ROWS = 4096
"""Rows whose results are remembered, of the first passes that are run."""


class Passes(Alone):
    """Runs the models of a problem."""

    def outputs(self, index: int, loss: Loss, contents: Ragged, size: BatchSize) -> Outputs:
        """Return a loss's outputs for prompts, batch by batch.

        Args:
            index: which loss of the problem it is.
            loss: the loss.
            contents: ``n`` rows of its model's token ids.
            size: of a batch.
        """
        del index
        plan = plan_batches(loss, contents, size.size)

        def run(rows: NDArray[np.int64], part: slice) -> tuple[NDArray[np.int64], Tensor]:
            own = rows[part]
            return own, loss.outputs(loss.batch(contents.select(own)))

        loss.forget()  # so that a resumed run computes what an uninterrupted one does
        batches = (plan.order[part] for part in plan.parts)
        return [done for rows in batches for _, done in size.map(len(rows), partial(run, rows))]

    def written(
        self,
        model: CausalModel,
        starts: Sequence[Ids],
        generator: torch.Generator,
        *,
        prefix: Surroundings,
        allowed: Tensor,
    ) -> list[Ids | None]:
        """Let a model write sentences; see :func:`~fuse_index.optimize.writing.write_sentences`."""
        return write_sentences(model, starts, generator, prefix=prefix, allowed=allowed)


class PassMemo(Passes):
    """Runs the models of problems that differ in what prompts are compared with alone.

    The results of the first passes are remembered: only what comes early is the same in several
    runs.

    Args:
        rows: how much is remembered.
    """

    def __init__(self, rows: int = MOST_ROWS) -> None:
        self._room = rows
        self._known: dict[Any, Any] = {}

    @override
    def outputs(self, index: int, loss: Loss, contents: Ragged, size: BatchSize) -> Outputs:
        key = index, size.size, contents.offsets.tobytes(), contents.values.tobytes()
        make = super().outputs
        return self._once(key, len(contents), lambda: make(index, loss, contents, size))

    @override
    def written(
        self,
        model: CausalModel,
        starts: Sequence[Ids],
        generator: torch.Generator,
        *,
        prefix: Surroundings,
        allowed: Tensor,
    ) -> list[Ids | None]:
        write = super().written

        def make() -> tuple[list[Ids | None], Tensor]:
            rows = write(model, starts, generator, prefix=prefix, allowed=allowed)
            return rows, generator.get_state()

        key = tuple(starts), generator.get_state().numpy().tobytes()
        rows, after = self._once(key, len(starts), make)
        generator.set_state(after)
        return list(rows)

    def _once(self, key: Any, rows: int, make: Callable[[], Made]) -> Made:
        if key in self._known:
            found: Made = self._known[key]
            return found
        made = make()
        if rows <= self._room:
            self._room -= rows
            self._known[key] = made
        return made
