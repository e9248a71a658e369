"""The stages of long work: timed, logged, and reported as progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fuse_index.build.options import Stage
from fuse_index.common.progress import Progress, Tick, silent

logger = logging.getLogger(__name__)

_LOG_SECONDS = 30.0


class StageTimer:
    """Times stages and passes their progress on.

    Args:
        progress: called with (stage, units done, units in all or ``None``).

    Attributes:
        seconds: by stage, in the order of the stages.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[Stage, float] = {}
        self._progress = progress or silent

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[Tick]:
        """Time the block; yields the callback for its progress."""
        start = logged = time.perf_counter()
        logger.info("%s", stage.value)

        def report(done: int, total: int | None) -> None:
            nonlocal logged
            now = time.perf_counter()
            if done and now - logged > _LOG_SECONDS:  # for those who watch a log, not a terminal
                logged = now
                logger.info("%s: %s", stage.value, pace(done, total, now - start, stage.unit))
            self._progress(stage, done, total)

        report(0, None)
        yield report
        self.seconds[stage] = time.perf_counter() - start


def pace(done: int, total: int | None, seconds: float, unit: str) -> str:
    """Return how much is done, at what rate, and how long the rest will take."""
    rate = done / max(seconds, 1e-9)
    if total is None:
        return f"{done:,} {unit}, {rate:,.0f} a second"
    left = int((total - done) / rate)
    clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
    return f"{done:,} of {total:,} {unit}, {rate:,.0f} a second, {clock} left"
