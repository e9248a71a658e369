"""The speed of a machine at the work of a build."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fuse_index.common.threads import one_thread

EIGEN = 9.0
"""Multiples of ``n^3``: a real symmetric eigendecomposition with vectors."""

_WRITTEN = 32  # megabytes
_PASSES = 3.0  # over a bundle that is written: made, checked, hashed


@dataclass(frozen=True)
class Rates:
    """Work that one machine does in a second, on all its cores.

    Attributes:
        text_bytes: bytes of text counted by the engine.
        small_text_bytes: bytes of text counted in memory, which a small text is.
        merged_words: distinct words sorted and written.
        merged_entries: words of the shards' counts added up.
        tried_words: words tokenized and tested for compositionality, in one tokenizer.
        flops: floating-point operations of products in float64.
        solve_flops: those of eigendecompositions.
        report_flops: those of the quality report, as :func:`quality_flops` counts them.
        embedded_bytes: bytes of embeddings gathered and mixed in float64.
        written_bytes: bytes written and hashed.
        startup: seconds before the first word.
    """

    text_bytes: float = 100e6
    small_text_bytes: float = 8e6
    merged_words: float = 2e6
    merged_entries: float = 4e6
    tried_words: float = 30e3
    flops: float = 20e9
    solve_flops: float = 10e9
    report_flops: float = 20e9
    embedded_bytes: float = 1.5e9
    written_bytes: float = 300e6
    startup: float = 4.0

    def scaled(self, machines: float) -> Rates:
        """Return the rates of so many machines of the same kind, without what one must do."""
        return replace(
            self,
            text_bytes=self.text_bytes * machines,
            tried_words=self.tried_words * machines,
            flops=self.flops * machines,
            embedded_bytes=self.embedded_bytes * machines,
        )


TYPICAL = Rates()
"""Two cores of a server processor."""


def measure_rates(seconds: float = 1.5, base: Rates = TYPICAL) -> Rates:
    """Measure products, decompositions, gathers and writing here; the rest is ``base``.

    One thread is measured, by its best run, and multiplied: the workers of a fit do not wait for
    each other. Two threads that do were seen to take thirty times as long on a busy machine.

    Args:
        seconds: about how long, beside the writing.
        base: rates of what is not measured, scaled by the number of cores beside two.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = (cores or 2) / 2
    with one_thread() as threads:
        best = _best_rates(seconds)
    return replace(
        base,
        text_bytes=base.text_bytes * share,
        tried_words=base.tried_words * share,
        report_flops=best["flops"],
        written_bytes=_writing_rate(base) / _PASSES,
        **{name: threads * rate for name, rate in best.items()},
    )


def _best_rates(seconds: float) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(2048, 384, generator=generator, dtype=torch.float64)
    gram = left.T @ left
    ids = torch.randint(0, 2048, (16384,), generator=generator)
    works: dict[str, tuple[Callable[[], object], float]] = {
        "flops": (lambda: left.T @ left, 2.0 * 384 * 384 * 2048),
        "solve_flops": (lambda: torch.linalg.eigh(gram), EIGEN * 384**3),
        "embedded_bytes": (lambda: left.index_select(0, ids), 8.0 * 384 * 16384),
    }
    best, end = dict.fromkeys(works, 0.0), time.perf_counter() + seconds
    for name in works:
        works[name][0]()  # warm up
    while time.perf_counter() < end or not all(best.values()):
        for name, (work, amount) in works.items():
            start = time.perf_counter()
            work()
            best[name] = max(best[name], amount / (time.perf_counter() - start))
    return best


def _writing_rate(base: Rates) -> float:
    """Bytes a second that are hashed and reach the disk."""
    block = bytes(1 << 20)
    try:
        with tempfile.TemporaryFile() as file:
            start, digest = time.perf_counter(), hashlib.sha256()
            for _ in range(_WRITTEN):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return _WRITTEN * len(block) / (time.perf_counter() - start)
    except OSError:  # no room, or nowhere to write
        return base.written_bytes * _PASSES
