"""Progress of long work: one callback type, for every floor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

Progress = Callable[[str, int, int | None], None]
"""Called with (stage, units done, units in all or None if unknown)."""

Tick = Callable[[int, int | None], None]
"""A :data:`Progress` whose stage is fixed: called with (units done, units in all or None)."""

Add = Callable[[int], None]
"""Called with the units done since its last call."""


def silent(stage: str, done: int, total: int | None) -> None:
    """Report nothing: the default :data:`Progress`."""
    del stage, done, total


def ignore(count: int) -> None:
    """Report nothing: the default :data:`Add`."""
    del count


def stage(progress: Progress | None, name: str) -> Tick:
    """Fix the stage of a progress callback.

    Args:
        progress: the callback; None reports nothing.
        name: of the stage, as people read it.
    """
    return partial(progress or silent, name)


def adding(tick: Tick | None, total: int | None, done: int = 0) -> Add:
    """Return a callback that adds up the units it is called with.

    Args:
        tick: called with (units done, ``total``); None reports nothing.
        total: units in all, None if unknown.
        done: units done before.
    """

    def add(count: int) -> None:
        nonlocal done
        done += count
        if tick is not None and count:
            tick(done, total)

    return add
