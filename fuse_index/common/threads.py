"""How many threads torch uses for one operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[int]:
    """Run torch's operations on one thread each, as far as they begin inside.

    Threads that share an operation wait for each other at its end. Where other work keeps a core
    busy, small operations were seen to take twenty times as long, and to keep the cores busy while
    they wait.

    Yields:
        The number of threads before, and again behind.
    """
    import torch  # noqa: PLC0415 - the floor of common does without it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
