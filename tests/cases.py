"""Many cases in one test: a failure says which of them it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def case(**values: object) -> Iterator[None]:
    """Name ``values`` in the message of whatever fails inside."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        named = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise AssertionError(f"{named}: {error}") from error
