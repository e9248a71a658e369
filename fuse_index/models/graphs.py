"""What a GPU does for batches of one shape, recorded once and replayed: CUDA graphs.

A pass of a model is hundreds of small kernels. For one prompt, as in a gradient pass, the host
takes several times as long to launch them as the GPU takes to run them. A recording is launched at
once.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fuse_index.models.kinds import ModelKind

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch

    Results = tuple[Tensor, ...]
    Pass = Callable[[Tensor, Batch], Results]
    """``(b, L, width)`` embeddings and their batch to results of ``b`` rows each."""

logger = logging.getLogger(__name__)

_FIRST = 2
"""Times a shape is run as usual before it is recorded: most shapes do not come back, a first run
makes what is made only once."""
_KEPT = 32
_EXACT_ROWS = 16
"""Up to so many rows are recorded as they are; more are rounded up to a quarter of a power of 2."""
_LENGTH_STEP = 4
_FEW_ROWS_LENGTH_STEP = 8
_SHORT = 64
"""Positions up to which attention in memory-efficient form is the fastest: on an H200, 512 rows of
19 tokens and 16 heads with a mask take 0.14 ms, and 0.45 by what torch would choose."""


@dataclass(frozen=True, eq=False)
class _Recording:
    """A graph, the tensors it reads, and those it writes."""

    graph: torch.cuda.CUDAGraph
    embeds: Tensor
    batch: Batch
    results: Results

    def replay(self, embeds: Tensor, batch: Batch, pad: int) -> Results:
        """Run it on other values of no larger shape."""
        rows, length = batch.ids.shape
        own = self.batch
        if length < own.ids.shape[1]:
            own.ids[:rows, length:] = pad
            own.mask[:rows, length:] = False
        # rows past these keep what an earlier batch left there: whole rows, whose results are cut
        own.ids[:rows, :length].copy_(batch.ids)
        own.mask[:rows, :length].copy_(batch.mask)
        own.lengths[:rows].copy_(batch.lengths)
        own.totals[:rows].copy_(batch.totals)
        self.embeds[:rows, :length].copy_(embeds)
        self.graph.replay()
        # the memory of results is that of other recordings' intermediates
        return tuple(result[:rows].clone() for result in self.results)


class GraphCache:
    """The recordings of one loss.

    A pass may be recorded if it reads its batch on the GPU alone. One that waits for the GPU, to
    ask it for a number or to give it a tensor of the host's, CUDA refuses; it is run as usual.

    Args:
        model: whose batches are run; on a CPU nothing is recorded.

    Attributes:
        enabled: whether passes are recorded.
    """

    def __init__(self, model: Model) -> None:
        self.enabled = True
        self._model = model
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._seen: Counter[Hashable] = Counter()
        self._refused: set[str] = set()
        self._pool: Any = None
        self._spread = model.device.type == "cuda" and model.spread

    def run(
        self, name: str, run: Pass, embeds: Tensor, batch: Batch, *, exact: bool = False
    ) -> Results:
        """Return what a pass gives for a batch.

        Args:
            name: names the pass; passes of one name do the same.
            run: the pass. It reads nothing but its arguments and what stays as it is, and gives
                results of ``b`` rows, which do not depend on each other.
            embeds: (b, L, width), without gradient.
            batch: the ids that go with them.
            exact: whether the results depend on the length of the batch. Otherwise it may be run
                with more padding.

        Returns:
            The results, which the caller may keep.
        """
        # what runs on other devices too, or moves weights, would not be in the recording
        if embeds.device.type != "cuda" or self._spread:
            return run(embeds, batch)
        with _attention(batch.ids.shape[1]):
            # what rows share is computed once, which pays more
            usual = _shares_most(batch) or self._model.splits(batch)
            if not self.enabled or name in self._refused or usual:
                return run(embeds, batch)
            return self._replay(name, run, embeds, batch, exact=exact)

    def _replay(
        self, name: str, run: Pass, embeds: Tensor, batch: Batch, *, exact: bool
    ) -> Results:
        shape = self._rounded(batch, exact=exact)
        key = name, embeds.dtype, shape.ids.shape, *_constants(shape)
        try:
            found = self._recordings.get(key)
            if found is None:
                self._seen[key] += 1
                if self._seen[key] <= _FIRST:
                    return run(embeds, replace(batch, shared=shape.shared))
                found = self._record(run, embeds, shape)
                if found is None:
                    logger.debug("%s: cannot be recorded: %s", self._model.name, name)
                    self._refused.add(name)
                    return run(embeds, batch)
                self._recordings[key] = found
                while len(self._recordings) > _KEPT:
                    self._recordings.popitem(last=False)
            self._recordings.move_to_end(key)
            return found.replay(embeds, batch, self._model.frame.pad)
        except torch.OutOfMemoryError:
            self.clear()
            raise

    def clear(self) -> None:
        """Drop all recordings, and the memory they hold."""
        self._recordings.clear()
        self._pool = None

    def _rounded(self, batch: Batch, *, exact: bool) -> Batch:
        """What a batch becomes so that fewer shapes differ; its tensors are on no device.

        Nothing that a recording bakes in may then depend on more than what :func:`_constants` has.
        """
        rows, length = batch.ids.shape
        causal = self._model.kind is ModelKind.CAUSAL
        # a causal model has logits over the vocabulary at every further position
        exact = exact or (batch.even and causal) or self._model.frame.width is not None
        step = _FEW_ROWS_LENGTH_STEP if rows <= _EXACT_ROWS and not causal else _LENGTH_STEP
        longer = min(-(-length // step) * step, self._model.positions or length)
        limit = self._model.padding_limit
        exact = exact or (limit is not None and longer > limit)
        if not exact:
            length = longer
        return replace(
            batch,
            ids=torch.empty((_rounded_rows(rows), length), dtype=torch.int64, device="meta"),
            shared=batch.shared[: batch.start],
            shortest=batch.shortest if causal else 0,
            longest=batch.longest if exact and batch.even else length - batch.start,
            even=exact and batch.even,
        )

    def _record(self, run: Pass, embeds: Tensor, shape: Batch) -> _Recording | None:
        """Record a pass, or return None where CUDA refuses it."""
        device = embeds.device
        rows, length = shape.ids.shape
        batch = replace(
            shape,
            ids=torch.zeros((rows, length), dtype=torch.int64, device=device),
            mask=torch.ones((rows, length), dtype=torch.bool, device=device),
            lengths=torch.full((rows,), length - shape.start, device=device),
            totals=torch.full((rows,), length, device=device),
        )
        own = functional.pad(embeds.detach(), (0, 0, 0, length - embeds.shape[1]))
        own = own.repeat(-(-rows // len(own)), 1, 1)[:rows].contiguous()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream()):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            try:
                # other threads may go on using the GPU
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
                ):
                    results = run(own, batch)
            except RuntimeError as error:
                _end_recording(device, self._pool)
                self._pool = None
                cause = error.__context__  # ending a recording that failed fails as well
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
                return None
        return _Recording(graph, own, batch, results)


@contextlib.contextmanager
def _attention(length: int) -> Iterator[None]:
    """Let torch use attention kernels that are fast for rows of so many positions."""
    if length > _SHORT:
        yield
        return
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def _end_recording(device: torch.device, pool: Any) -> None:
    """Tell the allocator that a recording has failed; torch leaves it waiting for the end."""
    end = getattr(torch._C, "_cuda_endAllocateToPool", None)
    if end is not None:
        with contextlib.suppress(RuntimeError):  # a version of torch that does so itself
            end(device.index or 0, pool)


def _shares_most(batch: Batch) -> bool:
    """Whether rows agree in at least half of what a causal model would have to run."""
    if len(batch) == 1:
        return False
    run = batch.ids.shape[1] - batch.start
    return 2 * (len(batch.shared) - batch.start) >= run


def _rounded_rows(rows: int) -> int:
    if rows <= _EXACT_ROWS:
        return rows
    step = 1 << (rows.bit_length() - 3)
    return -(-rows // step) * step


def _constants(batch: Batch) -> tuple[Hashable, ...]:
    return batch.shared, batch.start, batch.shortest, batch.longest, batch.even
