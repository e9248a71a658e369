"""Several runs at once: what they wait for is computed in one batch.

Each run has a thread of its own, but one at a time goes on, until it needs a model. Once all of
them wait, the rows that they want of one model are put together, each distinct one once; then they
go on one after another. So methods are written as for one run, and nothing depends on timing.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from typing_extensions import override

from fuse_index.errors import FuseIndexError
from fuse_index.models.batching import BatchSize
from fuse_index.objectives.base import Loss
from fuse_index.optimize.optimize import deferred_interrupts
from fuse_index.optimize.passes import Outputs, Passes
from fuse_index.optimize.scoring import by_agreement, row_keys
from fuse_index.optimize.state import Ids
from fuse_index.optimize.writing import write_together
from fuse_index.predict.joint import Rows
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.causal import CausalModel
    from fuse_index.models.surroundings import Surroundings

_ROWS = 128
"""Rows of one pass with a gradient, or with logits at every position, of all runs."""
_current = threading.local()
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Request:
    """What a run waits for.

    Attributes:
        key: of requests that can be met together.
        given: the arguments.
        alone: meets this one alone.
    """

    key: Any
    given: tuple[Any, ...]
    alone: Callable[[], Any]


class _Task(threading.Thread):
    """One run, which goes on when it is resumed, until it needs something or ends."""

    def __init__(self, job: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._job, self._context = job, contextvars.copy_context()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self.result: Any = None

    def run(self) -> None:
        self._answers.get()
        _current.task = self
        try:
            self.result = self._context.run(self._job)
        except BaseException as error:
            self.result = error
        self._requests.put(None)

    def resume(self, answer: Any) -> _Request | None:
        """Give a run what it waits for; returns what it needs next, None at its end."""
        self._answers.put(answer)
        return self._requests.get()

    def ask(self, request: _Request) -> Any:
        """Wait for an answer, in the run's own thread."""
        self._requests.put(request)
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def end(self) -> None:
        """Interrupt the run, wherever it is."""
        self._answers.put(KeyboardInterrupt())
        self.join()


class Together(Passes):
    """Joins the passes of runs of problems that differ in what prompts are compared with alone.

    Args:
        losses: of one of the problems.
        alone: meets requests that are not joined, and those from outside the runs.
        merge: whether rows of several runs make one batch; otherwise each run's rows stay a batch
            of their own, so that every number is that of a run alone, bit for bit.
    """

    def __init__(self, losses: Sequence[Loss], alone: Passes, *, merge: bool) -> None:
        self._losses, self._alone, self._merge = losses, alone, merge
        self._sizes: dict[Hashable, BatchSize] = {}

    def run(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Do jobs at once; returns the result of each, or the error that ended it."""
        with deferred_interrupts():
            tasks = [_Task(job) for job in jobs]
            for task in tasks:
                task.start()
            try:
                self._take_turns(tasks)
            finally:
                for task in tasks:
                    if task.is_alive():
                        task.end()
        return [task.result for task in tasks]

    def _take_turns(self, tasks: Sequence[_Task]) -> None:
        answers: dict[_Task, Any] = dict.fromkeys(tasks)
        while answers:
            waiting = {task: task.resume(answer) for task, answer in answers.items()}
            groups: dict[Any, dict[_Task, _Request]] = {}
            for task, request in waiting.items():
                if request is not None:
                    groups.setdefault(request.key, {})[task] = request
            met: dict[_Task, Any] = {}
            for group in groups.values():
                met |= dict(zip(group, self._met(list(group.values())), strict=True))
            answers = {task: met[task] for task in waiting if task in met}

    def _met(self, requests: list[_Request]) -> list[Any]:
        """Meet requests of one key: together, or one by one where that fails."""
        if self._merge and len(requests) > 1:
            try:
                kind, *where = requests[0].key
                joined: list[Any] = getattr(self, f"_{kind}")(*where, [r.given for r in requests])
                return joined
            except Exception as error:  # whose rows it was is seen where each has its own batch
                level = logging.DEBUG if isinstance(error, FuseIndexError) else logging.WARNING
                logger.log(level, "%s at once failed: %r; one by one", requests[0].key[0], error)
        return [_attempt(request.alone) for request in requests]

    @override
    def outputs(self, index: int, loss: Loss, contents: Ragged, size: BatchSize) -> Outputs:
        def alone() -> Outputs:
            return self._alone.outputs(index, loss, contents, size)

        found: Outputs = _ask(_Request(("outputs", index), (contents, size), alone))
        return found

    def _outputs(self, index: int, given: Sequence[tuple[Ragged, BatchSize]]) -> list[Outputs]:
        """The outputs of all runs' rows, each distinct row run once."""
        rows = Ragged.concatenate([contents for contents, _ in given])
        keys = row_keys(rows)
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        chosen = np.fromiter(first.values(), np.int64, len(first))
        chosen = chosen[by_agreement(rows.select(chosen), None)]
        size = self._sizes.setdefault(index, BatchSize(given[0][1].most))
        parts = super().outputs(index, self._losses[index], rows.select(chosen), size)
        outputs = torch.cat([own for _, own in parts])
        order = chosen[np.concatenate([own for own, _ in parts])]
        place = {keys[row]: position for position, row in enumerate(order.tolist())}
        where = torch.tensor([place[key] for key in keys], device=outputs.device)
        rows_of = [contents for contents, _ in given]
        split = torch.split(outputs[where], [len(own) for own in rows_of])
        return [[(np.arange(len(own)), part)] for own, part in zip(rows_of, split, strict=True)]

    @override
    def rows(self, key: Hashable, function: Rows, rows: Sequence[Any]) -> Sequence[Any]:
        def alone() -> Sequence[Any]:
            return function(rows)

        found: Sequence[Any] = _ask(_Request(("rows", key), (function, rows), alone))
        return found

    def _rows(self, key: Hashable, given: Sequence[tuple[Rows, Sequence[Any]]]) -> list[Any]:
        """The results of all runs' rows, by the function of the first."""
        function, rows = given[0][0], [row for _, own in given for row in own]
        size = self._sizes.setdefault(key, BatchSize(_ROWS))
        parts = size.map(len(rows), lambda part: function(rows[part]))
        results = iter([result for _, part in parts for result in part])
        return [list(islice(results, len(own))) for _, own in given]

    @override
    def written(
        self,
        model: CausalModel,
        starts: Sequence[Ids],
        generator: torch.Generator,
        *,
        prefix: Surroundings,
        allowed: torch.Tensor,
    ) -> list[Ids | None]:
        def alone() -> list[Ids | None]:
            return self._alone.written(model, starts, generator, prefix=prefix, allowed=allowed)

        key = "written", model, prefix.key
        given = starts, generator, prefix, allowed
        found: list[Ids | None] = _ask(_Request(key, given, alone))
        return found

    def _written(
        self, model: CausalModel, _: Any, given: Sequence[tuple[Any, ...]]
    ) -> list[list[Ids | None]]:
        """Sentences of all runs; those that begin alike, from one state, are written once."""
        before = [(tuple(own[0]), own[1].get_state().numpy().tobytes()) for own in given]
        first = {key: row for row, key in reversed(list(enumerate(before)))}
        _, _, prefix, allowed = given[0]
        groups = [(given[row][0], torch.Generator()) for row in first.values()]
        for row, (_, generator) in zip(first.values(), groups, strict=True):
            generator.set_state(given[row][1].get_state())
        made = write_together(model, groups, prefix=prefix, allowed=allowed)
        place = {key: position for position, key in enumerate(first)}
        for key, own in zip(before, given, strict=True):
            own[1].set_state(groups[place[key]][1].get_state())
        return [list(made[place[key]]) for key in before]


def _ask(request: _Request) -> Any:
    task: _Task | None = getattr(_current, "task", None)
    return request.alone() if task is None else task.ask(request)


def _attempt(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        return error
