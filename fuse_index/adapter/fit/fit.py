"""Fitting adapters: words in, the t-product least-squares solution of every group out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.gram import GroupGram
from fuse_index.adapter.fit.groups import FALLBACK, WordGroup, group_words
from fuse_index.adapter.fit.lstsq import Method, Solution, Summing, solve_problem
from fuse_index.adapter.fit.options import FitOptions
from fuse_index.adapter.fit.quality import QualityReport, report
from fuse_index.adapter.fit.stream import EmbeddingStream, WordStream
from fuse_index.errors import ShapeError, VocabularyError

if TYPE_CHECKING:
    from fuse_index.words.table import WordTable

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fit:
    """The result of :func:`fit_adapter`.

    Attributes:
        adapters: ``(k, source width, target width)`` float32 by group, on the device of the
            embeddings; always with ``"fallback"``.
        fallbacks: the groups that use the fallback adapter, and why.
        quality: figures on words that were held out.
        ridges: of every adapter, in the units of :class:`FitOptions`.
        methods: how every adapter was solved for.
        options: what was asked for.
    """

    adapters: dict[str, Tensor]
    fallbacks: dict[str, str]
    quality: QualityReport
    ridges: dict[str, float]
    methods: dict[str, Method]
    options: FitOptions


@dataclass(frozen=True)
class FoundGroup:
    """What was found for one group, to be kept until all are done.

    Attributes:
        adapter: ``(k, source width, target width)`` float32, if the group has its own.
        fallback: why it has none.
        ridge: of the adapter.
        method: how it was solved for.
        single: whether float32 products are still worth a try.
        common: the fallback's sums over this group and all before it.
    """

    adapter: NDArray[np.float32] | None
    fallback: str | None
    ridge: float | None
    method: str | None
    single: bool
    common: dict[str, NDArray[np.float64]] | None


class FitStore(Protocol):
    """Keeps what a fit has done, and says how sums over many words are made."""

    def load_group(self, number: int) -> FoundGroup | None:
        """Return what was found for a group, ``None`` if it is still to do."""

    def save_group(self, number: int, found: FoundGroup) -> None:
        """Keep what was found for a group."""

    def summing(self, number: int) -> Summing:
        """Return what makes the sums of a group of several shards."""


def fit_adapter(
    table: WordTable,
    source_embeddings: Tensor,
    target_embeddings: Tensor,
    options: FitOptions | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Fit one adapter for every word group, and the fallback adapter for the others.

    The adapter of a group minimizes ``||X * G - Y||^2`` (plus a ridge) over its words, where ``*``
    is the t-product; the fallback is one matrix ``F`` (``k = 1``) that minimizes the squared
    distance of the sum of a word's source embeddings times ``F`` to each of its target embeddings,
    over all words. Held-out words are used for neither.

    Args:
        table: words and their token ids in both models.
        source_embeddings: ``(source vocabulary, source width)``, floating.
        target_embeddings: ``(target vocabulary, target width)``, floating, same device.
        options: see :class:`FitOptions`.
        progress: called with ``(words done, words in all)``.

    Returns:
        Adapters, fallbacks and the quality report. The same input gives the same result.

    Raises:
        ShapeError: the embeddings are not matrices on one device, or token ids are outside.
        VocabularyError: the table has no word.
        ModelError: an embedding of a word is not finite.
    """
    options = options or FitOptions()
    _check(table, source_embeddings, target_embeddings)
    embeddings = source_embeddings, target_embeddings
    with Workers(source_embeddings.device) as workers:
        stream = WordStream(table, *embeddings, workers=workers, chunk_words=options.chunk_words)
        return fit_groups(stream, group_words(table, options), options, progress)


def fit_groups(
    stream: EmbeddingStream,
    groups: list[WordGroup],
    options: FitOptions,
    progress: Progress | None = None,
    store: FitStore | None = None,
) -> Fit:
    """Fit the adapters of groups of words; see :func:`fit_adapter`.

    Args:
        stream: of the words, inside its workers.
        groups: from ``group_words`` or ``store_groups``, whichever the stream reads.
        options: see :class:`FitOptions`.
        progress: called with ``(words done, words in all)``.
        store: keeps what is done, and knows what was.
    """
    tick = _ticker(sum(len(g.train) + len(g.held_out) for g in groups), progress)
    fitter = _Fitter(stream, options, tick, store)
    for number, group in enumerate(groups):
        fitter.fit(group, number)
    fitter.fit_fallback(stream.join([g.train for g in groups]))
    return Fit(
        adapters=fitter.adapters,
        fallbacks=fitter.fallbacks,
        quality=report(stream, groups, fitter.adapters, tick),
        ridges=fitter.ridges,
        methods=fitter.methods,
        options=options,
    )


class _Fitter:
    """Fits group after group, and keeps the sums that the fallback needs."""

    def __init__(
        self,
        stream: EmbeddingStream,
        options: FitOptions,
        tick: Callable[[int], None],
        store: FitStore | None,
    ) -> None:
        self.adapters: dict[str, Tensor] = {}
        self.fallbacks: dict[str, str] = {}
        self.ridges: dict[str, float] = {}
        self.methods: dict[str, Method] = {}
        self._stream = stream
        self._options = options
        self._tick = tick
        self._store = store
        self._common = self._empty()
        self._single = True  # whether float32 products are still worth a try

    def _empty(self) -> GroupGram:
        stream = self._stream
        return GroupGram(1, *stream.widths, workers=stream.workers, device=stream.device)

    def fit(self, group: WordGroup, number: int) -> None:
        """Fit one group, or note why it uses the fallback; or recall what was found before."""
        saved = self._store.load_group(number) if self._store else None
        if saved is not None:
            self._recall(group, saved)
            return
        count, least = len(group.train), self._options.min_words
        gram = None
        if count < least:
            self.fallbacks[group.name] = f"{count} words to fit on, fewer than min_words={least}"
            self._tick(count)
        else:
            gram = self._solve(group, number)
        if gram is not None:
            self._common.add_face(gram, group.q)
        elif count:
            for source, target in self._stream.read(group.train, torch.float64):
                self._common.add(self._common.prepare_summed(source, target))
        if self._store is not None:
            self._store.save_group(number, self._found(group))

    def _found(self, group: WordGroup) -> FoundGroup:
        adapter = self.adapters.get(group.name)
        return FoundGroup(
            adapter=None if adapter is None else adapter.cpu().numpy(),
            fallback=self.fallbacks.get(group.name),
            ridge=self.ridges.get(group.name),
            method=self.methods[group.name].value if adapter is not None else None,
            single=self._single,
            common=self._common.state(),
        )

    def _recall(self, group: WordGroup, saved: FoundGroup) -> None:
        """Take over what was found for a group before the work was interrupted."""
        if saved.fallback is not None:
            self.fallbacks[group.name] = saved.fallback
        if saved.adapter is not None:
            assert saved.ridge is not None
            self.adapters[group.name] = torch.from_numpy(saved.adapter).to(self._stream.device)
            self.ridges[group.name] = saved.ridge
            self.methods[group.name] = Method(saved.method)
        self._single = saved.single
        if saved.common is not None:  # only the last group's sums are kept: they hold all before
            self._common = self._empty()
            self._common.add_state(saved.common)
        self._tick(len(group.train))

    def fit_fallback(self, rows: Any) -> None:
        """Fit the fallback from the sums of all groups; ``rows`` are their words."""
        problem = self._stream.summed_problem(rows)
        solution = solve_problem(problem, self._options.ridge, gram=self._common)
        self._keep(FALLBACK, solution, solution.faces)

    def _solve(self, group: WordGroup, number: int) -> GroupGram | None:
        if group.shared:
            problem = self._stream.shared_problem(group.train, group.q)
        else:
            problem = self._stream.problem(group.train, group.k)
        solution = solve_problem(
            problem,
            self._options.ridge,
            single=self._single,
            tick=self._tick,
            summing=self._store.summing(number) if self._store else None,
        )
        faces = solution.faces
        if group.shared:  # (1, source width, q * target width) to (q, source width, target width)
            faces = faces[0].reshape(faces.shape[1], group.q, -1).transpose(0, 1)
        self._keep(group.name, solution, faces)
        return solution.gram

    def _keep(self, name: str, solution: Solution, faces: Tensor) -> None:
        self.adapters[name] = faces.to(torch.float32).contiguous()
        self.ridges[name] = solution.ridge
        self.methods[name] = solution.method
        if solution.rejected_single:
            self._single = False
        logger.debug("adapter %s: %s, ridge %g", name, solution.method.value, solution.ridge)


def _ticker(total: int, progress: Progress | None) -> Callable[[int], None]:
    done = 0

    def tick(words: int) -> None:
        nonlocal done
        done += words
        if progress is not None and words:
            progress(done, total)

    return tick


def _check(table: WordTable, source: Tensor, target: Tensor) -> None:
    if len(table.words) == 0:
        raise VocabularyError("fit_adapter: the word table is empty", expected="at least one word")
    if source.device != target.device:
        raise ShapeError(
            f"fit_adapter: source_embeddings are on {source.device} but target_embeddings on "
            f"{target.device}",
            expected="one device",
        )
    for side, embeddings, ids in (
        ("source", source, table.source),
        ("target", target, table.target),
    ):
        if embeddings.ndim != 2 or not embeddings.is_floating_point():
            raise ShapeError(
                f"fit_adapter: {side}_embeddings has shape {tuple(embeddings.shape)} and dtype "
                f"{embeddings.dtype}",
                expected="a floating matrix (vocabulary, width)",
            )
        if ids.lengths.min() < 1:
            word = table.words[int(ids.lengths.argmin())]
            raise ShapeError(
                f"fit_adapter: the word {word!r} has no {side} token", expected="at least one"
            )
        if ids.values.min() < 0 or ids.values.max() >= len(embeddings):
            raise ShapeError(
                f"fit_adapter: the word table has {side} token ids from {ids.values.min()} to "
                f"{ids.values.max()}, but {side}_embeddings has {len(embeddings)} rows",
                remedy="pass the embeddings of the model whose tokenizer made the table",
            )
