"""Passes that several runs may make together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

Rows = Callable[[Sequence[Any]], Sequence[Any]]
"""Rows to results, one a row, which do not depend on each other but by rounding."""


class Alone:
    """Makes the passes of one run."""

    def rows(self, key: Hashable, function: Rows, rows: Sequence[Any]) -> Sequence[Any]:
        """Return what a function gives for rows.

        Args:
            key: the same where functions do the same, so that rows may be put together.
            function: computes the results.
            rows: its arguments.
        """
        del key
        return function(rows)
