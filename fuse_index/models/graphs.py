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

from fuse_index.models.graph_memory import GraphMemory, Pool, graph_memory
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
_AGAIN = 16
"""Times that a shape whose recording was dropped is run before it is recorded again: that takes as
long as a few passes."""
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
    pool: Pool

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
        self._refused: set[Hashable] = set()  # names of passes, and keys of single shapes
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
        memory = graph_memory(embeds.device)
        shape = self._rounded(batch, exact=exact)
        key = name, memory, embeds.dtype, shape.ids.shape, *_constants(shape)
        if key in self._refused:
            return run(embeds, batch)
        try:
            found = self._recordings.get(key)
            if found is None:
                self._seen[key] += 1
                if self._seen[key] <= _FIRST:
                    return run(embeds, replace(batch, shared=shape.shared))
                with memory.lock:
                    found = self._kept(key, memory, self._record(memory, run, embeds, shape))
                if found is None:
                    logger.debug("%s: cannot be recorded: %s", self._model.name, name)
                    self._refused.add(name)
                    return run(embeds, batch)
            with memory.lock:
                if key in self._recordings:
                    self._recordings.move_to_end(key)
                    memory.touch(found.pool)
                return found.replay(embeds, batch, self._model.frame.pad)
        except torch.OutOfMemoryError:
            self.clear()
            raise

    def _kept(
        self, key: Hashable, memory: GraphMemory, made: tuple[_Recording, int] | None
    ) -> _Recording | None:
        """Keep a recording and make room for it."""
        if made is None:
            return None
        found, size = made
        self._recordings[key] = found
        if not memory.add(found.pool, self, key, size):
            logger.debug("%s: too large to be kept: %s", self._model.name, key)
            self._refused.add(key)
        while len(self._recordings) > _KEPT:
            self.drop(next(iter(self._recordings)))
        return found

    def clear(self) -> None:
        """Drop all recordings, and the memory they hold."""
        for key in tuple(self._recordings):
            self.drop(key)

    def drop(self, key: Hashable) -> None:
        """Let a recording go; its shape is recorded again once it has come often."""
        found = self._recordings.pop(key, None)
        if found is not None:
            found.pool.members.get(self, set()).discard(key)
            self._seen[key] = _FIRST - _AGAIN

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

    def _record(
        self, memory: GraphMemory, run: Pass, embeds: Tensor, shape: Batch
    ) -> tuple[_Recording, int] | None:
        """Record a pass, and see how many bytes it takes; None where CUDA refuses it."""
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
        graph, pool = torch.cuda.CUDAGraph(), memory.pool()
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream()):
            try:
                # other threads may go on using the GPU
                with torch.cuda.graph(
                    graph,
                    pool=pool.handle,
                    stream=memory.stream,
                    capture_error_mode="thread_local",
                ):
                    before = torch.cuda.memory_reserved(device)
                    results = run(own, batch)
                    grown = torch.cuda.memory_reserved(device) - before
            except RuntimeError as error:
                _end_recording(device, pool.handle)
                memory.close(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
                cause = error.__context__  # ending a recording that failed fails as well
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
                return None
        inputs = (own, batch.ids, batch.mask, batch.lengths, batch.totals)
        size = max(grown, 0) + sum(tensor.nbytes for tensor in inputs)
        return _Recording(graph, own, batch, results, pool), size


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
