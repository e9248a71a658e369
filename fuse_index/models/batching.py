"""How many prompts a model takes at once: learned from running out of memory, and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from fuse_index.errors import OptionError
from fuse_index.models.graph_memory import drop_recordings

logger = logging.getLogger(__name__)

_PATIENCE = 32
"""Batches in a row that must succeed before a halved size is doubled again."""

Result = TypeVar("Result")


class BatchSize:
    """The number of prompts of one forward pass.

    It is halved when memory runs out and doubled again, up to where it began, after
    32 batches in a row that fitted; a size that failed twice is not tried again.

    Args:
        size: prompts of the first batch, and at most.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise OptionError(f"batch_size={size}", expected="at least 1")
        self.size = size
        self.most = size
        self._successes = 0
        self._failures: dict[int, int] = {}

    def map(self, count: int, run: Callable[[slice], Result]) -> Iterator[tuple[slice, Result]]:
        """Run a function on slices of ``count`` prompts, in order.

        Args:
            count: prompts.
            run: what to do with a slice of them; it is called again with a smaller slice where
                memory ran out.

        Yields:
            Each slice that succeeded, with its result.
        """
        begin = 0
        while begin < count:
            part = slice(begin, min(begin + self.size, count))
            try:
                result = run(part)
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not out_of_memory(error):
                    raise
                if drop_recordings():  # whose memory may be what is missing
                    continue
                if self.size == 1:
                    raise
                self._shrink(part.stop - part.start)
                continue
            yield part, result
            begin = part.stop
            self._grow()

    def to_json(self) -> dict[str, Any]:
        """Return what was learned, as a JSON object."""
        failures = [[size, count] for size, count in self._failures.items()]
        learned = {"size": self.size, "most": self.most, "successes": self._successes}
        return {**learned, "failures": failures}

    def load_json(self, value: dict[str, Any]) -> None:
        """Go on from what :meth:`to_json` returned."""
        self.size, self.most = int(value["size"]), int(value["most"])
        self._successes = int(value["successes"])
        self._failures = {int(size): int(count) for size, count in value["failures"]}

    def _shrink(self, failed: int) -> None:
        self._failures[self.size] = self._failures.get(self.size, 0) + 1
        if self._failures[self.size] > 1:
            self.most = max(1, self.size // 2)
        self.size = max(1, min(self.size, failed) // 2)
        self._successes = 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.info("out of memory with %d prompts at once: going on with %d", failed, self.size)

    def _grow(self) -> None:
        self._successes += 1
        if self._successes >= _PATIENCE and self.size < self.most:
            self.size = min(self.size * 2, self.most)
            self._successes = 0


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    said = ("out of memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in said)
