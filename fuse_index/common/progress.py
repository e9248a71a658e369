"""Progress of long work: one callback type, for every floor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

Progress = Callable[[str, int, int | None], None]
"""Called with (stage, units done, units in all or None if unknown)."""

Tick = Callable[[int, int | None], None]
"""A :data:`Progress` whose stage is fixed: called with (units done, units in all or None)."""


def silent(stage: str, done: int, total: int | None) -> None:
    """Report nothing: the default :data:`Progress`."""
    del stage, done, total


def stage(progress: Progress | None, name: str) -> Tick:
    """Fix the stage of a progress callback.

    Args:
        progress: the callback; None reports nothing.
        name: of the stage, as people read it.
    """
    return partial(progress or silent, name)
