"""Fits the t-product least-squares adapter of every word group."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.gram import GroupGram
from fuse_index.adapter.fit.groups import FALLBACK, WordGroup, group_words
from fuse_index.adapter.fit.lstsq import Solution, Solver, solve_problem
from fuse_index.adapter.fit.options import FitOptions
from fuse_index.adapter.fit.quality import QualityReport, report
from fuse_index.adapter.fit.rows import WordRows
from fuse_index.adapter.fit.store import FitStore, FoundGroup
from fuse_index.adapter.fit.stream import WordStream
from fuse_index.bundle.tensors import Vectors
from fuse_index.common.progress import Add, Tick, adding
from fuse_index.errors import ShapeError, VocabularyError
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import Blocks, WordTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """The result of :func:`fit_adapter`.

    Attributes:
        adapters: ``(k, source width, target width)`` float32 by group, on the device of the
            embeddings; always with ``"fallback"``.
        fallbacks: the groups that use the fallback adapter, and why.
        quality: figures on words that were held out.
        ridges: of every adapter, in the units of :class:`FitOptions`.
        methods: the route to every adapter.
        options: of the fit.
    """

    adapters: dict[str, Tensor]
    fallbacks: dict[str, str]
    quality: QualityReport
    ridges: dict[str, float]
    methods: dict[str, Solver]
    options: FitOptions


def fit_adapter(
    table: Blocks,
    source_embeddings: Vectors,
    target_embeddings: Vectors,
    options: FitOptions | None = None,
    progress: Tick | None = None,
    *,
    store: FitStore | None = None,
) -> Fit:
    """Fit one adapter for every word group, and the fallback adapter for the others.

    The adapter of a group minimizes ``||X * G - Y||^2`` (plus a ridge) over its words, where ``*``
    is the t-product; the fallback is one matrix ``F`` (``k = 1``) that minimizes the squared
    distance of the sum of a word's source embeddings times ``F`` to each of its target embeddings,
    over all words. Held-out words are used for neither.

    Args:
        table: words and their token ids in both models, in memory or in parts.
        source_embeddings: ``(source vocabulary, source width)``, floating; or the group tensors of
            a bundle, with positions in them instead of token ids.
        target_embeddings: ``(target vocabulary, target width)``, likewise, on the same device.
        options: see :class:`FitOptions`.
        progress: called with (words done, words in all).
        store: keeps the words and what is done in files; in memory if not given.

    Returns:
        Adapters, fallbacks and the quality report. The same input gives the same result.

    Raises:
        ShapeError: the embeddings are not matrices on one device, or token ids are outside.
        VocabularyError: the table has no word.
        ModelError: an embedding of a word is not finite.
    """
    options = options or FitOptions()
    tables = [
        side.detach() if isinstance(side, Tensor) else side
        for side in (source_embeddings, target_embeddings)
    ]
    _check(table, *tables)
    wide = max(side.shape[0] for side in tables) > 1 << 31
    groups = group_words(table, options, store.words() if store else None, wide=wide)
    add = adding(progress, sum(len(g.train) + len(g.held_out) for g in groups))
    with Workers(source_embeddings.device) as workers:
        stream = WordStream(*tables, workers=workers, chunk_words=options.chunk_words)
        fitter = _Fitter(stream, options, add, store)
        for number, group in enumerate(groups):
            fitter.fit(group, number)
        fitter.fit_fallback(WordRows.join(g.train for g in groups))
        quality = report(stream, groups, fitter.adapters, add)
    return Fit(
        adapters=fitter.adapters,
        fallbacks=fitter.fallbacks,
        quality=quality,
        ridges=fitter.ridges,
        methods=fitter.methods,
        options=options,
    )


class _Fitter:
    """Fits group after group, and keeps the sums that the fallback needs."""

    def __init__(
        self,
        stream: WordStream,
        options: FitOptions,
        add: Add,
        store: FitStore | None,
    ) -> None:
        self.adapters: dict[str, Tensor] = {}
        self.fallbacks: dict[str, str] = {}
        self.ridges: dict[str, float] = {}
        self.methods: dict[str, Solver] = {}
        self._stream = stream
        self._options = options
        self._add = add
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
            self._add(count)
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
            self.methods[group.name] = Solver(saved.method)
        self._single = saved.single
        if saved.common is not None:  # only the last group's sums are kept: they hold all before
            self._common = self._empty()
            self._common.add_state(saved.common)
        self._add(len(group.train))

    def fit_fallback(self, rows: WordRows) -> None:
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
            add=self._add,
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


def _check(table: Blocks, source: Vectors, target: Vectors) -> None:
    if source.device != target.device:
        raise ShapeError(
            f"fit_adapter: source_embeddings are on {source.device} but target_embeddings on "
            f"{target.device}",
            expected="one device",
        )
    for side, vectors in (("source", source), ("target", target)):
        if len(vectors.shape) != 2 or not vectors.dtype.is_floating_point:
            raise ShapeError(
                f"fit_adapter: {side}_embeddings has shape {tuple(vectors.shape)} and dtype "
                f"{vectors.dtype}",
                expected="a floating matrix (vocabulary, width)",
            )
    words = 0
    for block in table.blocks():
        if len(block):
            words += len(block)
            _check_ids("source", block, block.source, source)
            _check_ids("target", block, block.target, target)
    if not words:
        raise VocabularyError("fit_adapter: the word table is empty", expected="at least one word")


def _check_ids(side: str, block: WordTable, ids: Ragged, vectors: Vectors) -> None:
    if ids.lengths.min() < 1:
        word = block.words[int(ids.lengths.argmin())]
        raise ShapeError(
            f"fit_adapter: the word {word!r} has no {side} token", expected="at least one"
        )
    if ids.values.min() < 0 or ids.values.max() >= vectors.shape[0]:
        raise ShapeError(
            f"fit_adapter: the word table has {side} token ids from {ids.values.min()} to "
            f"{ids.values.max()}, but {side}_embeddings has {vectors.shape[0]} rows",
            remedy="pass the embeddings of the model whose tokenizer made the table",
        )
