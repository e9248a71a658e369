"""Fitting adapters: words in, the t-product least-squares solution of every group out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fuse_index.adapter._workers import Workers
from fuse_index.adapter.gram import GroupGram
from fuse_index.adapter.groups import FALLBACK, WordGroup, group_words
from fuse_index.adapter.lstsq import Method, Solution, solve_problem
from fuse_index.adapter.options import FitOptions
from fuse_index.adapter.quality import QualityReport, report
from fuse_index.adapter.stream import Rows, WordStream
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
        return _fit_groups(stream, group_words(table, options), options, progress)


def _fit_groups(
    stream: WordStream, groups: list[WordGroup], options: FitOptions, progress: Progress | None
) -> Fit:
    tick = _ticker(sum(len(g.train) + len(g.held_out) for g in groups), progress)
    fitter = _Fitter(stream, options, tick)
    for group in groups:
        fitter.fit(group)
    fitter.fit_fallback(np.concatenate([g.train for g in groups]))
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
        self, stream: WordStream, options: FitOptions, tick: Callable[[int], None]
    ) -> None:
        self.adapters: dict[str, Tensor] = {}
        self.fallbacks: dict[str, str] = {}
        self.ridges: dict[str, float] = {}
        self.methods: dict[str, Method] = {}
        self._stream = stream
        self._options = options
        self._tick = tick
        self._common = GroupGram(1, *stream.widths, workers=stream.workers, device=stream.device)
        self._single = True  # whether float32 products are still worth a try

    def fit(self, group: WordGroup) -> None:
        """Fit one group, or note why it uses the fallback."""
        count, least = len(group.train), self._options.min_words
        gram = None
        if count < least:
            self.fallbacks[group.name] = f"{count} words to fit on, fewer than min_words={least}"
            self._tick(count)
        else:
            gram = self._solve(group)
        if gram is not None:
            self._common.add_face(gram, group.q)
        elif count:
            for source, target in self._stream.read(group.train, torch.float64):
                self._common.add(self._common.prepare_summed(source, target))

    def fit_fallback(self, rows: Rows) -> None:
        """Fit the fallback from the sums of all groups; ``rows`` are their words."""
        problem = self._stream.summed_problem(rows)
        solution = solve_problem(problem, self._options.ridge, gram=self._common)
        self._keep(FALLBACK, solution, solution.faces)

    def _solve(self, group: WordGroup) -> GroupGram | None:
        if group.shared:
            problem = self._stream.shared_problem(group.train, group.q)
        else:
            problem = self._stream.problem(group.train, group.k)
        solution = solve_problem(problem, self._options.ridge, single=self._single, tick=self._tick)
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
