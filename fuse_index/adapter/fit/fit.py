"""Fits the t-product least-squares adapter of every word group."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.gram import GroupGram
from fuse_index.adapter.fit.groups import FALLBACK, WordGroup, group_words
from fuse_index.adapter.fit.kinds.choice import choose_kind, fit_map
from fuse_index.adapter.fit.kinds.words import DenseWords
from fuse_index.adapter.fit.lstsq import Solution, Solver, solve_problem
from fuse_index.adapter.fit.options import FitOptions, MapKind
from fuse_index.adapter.fit.quality import (
    Predict,
    QualityReport,
    by_map,
    by_product,
    measure,
    predict,
    with_common,
)
from fuse_index.adapter.fit.rows import WordRows
from fuse_index.adapter.fit.store import FitStore, FoundGroup, State
from fuse_index.adapter.fit.stream import Centre, WordStream, centred
from fuse_index.adapter.maps import GroupMap, make_map
from fuse_index.bundle.kinds import AFFINE, CIRCULANT
from fuse_index.bundle.tensors import Vectors
from fuse_index.common.progress import Add, Tick, adding, ignore
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
        maps: by group, the tensors of its map beside the faces
            (:data:`~fuse_index.bundle.kinds.FIELDS`).
        kinds: the kind of every group's map that is not ``circulant``.
        selection: cross-validated relative errors by group and kind, where several were tried.
    """

    adapters: dict[str, Tensor]
    fallbacks: dict[str, str]
    quality: QualityReport
    ridges: dict[str, float]
    methods: dict[str, Solver]
    options: FitOptions
    maps: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    selection: dict[str, dict[str, float]] = field(default_factory=dict)


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

    Where maps are t-products, the adapter of a group minimizes ``||X * G - Y||^2`` (plus a ridge)
    over its words, where ``*`` is the t-product; the fallback is one matrix ``F`` (``k = 1``) that
    minimizes the squared distance of the sum of a word's source embeddings times ``F`` to each of
    its target embeddings, over all words. Maps of all kinds but ``circulant`` have an intercept.
    Held-out words are used for neither, with one exception: maps with an intercept
    that predict them worse than their mean are shrunk towards it until they do not.

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
        fitter = _Fitter(stream, groups, options, add, store)
        for number, group in enumerate(groups):
            fitter.fit(group, number)
        fitter.fit_fallback()
        for number, group in enumerate(groups):
            fitter.fit_map(group, len(groups) + number)
        quality = fitter.measure()
    return Fit(
        adapters=fitter.adapters,
        fallbacks=fitter.fallbacks,
        quality=quality,
        ridges=fitter.ridges,
        methods=fitter.methods,
        options=options,
        maps=fitter.maps,
        kinds=fitter.kinds,
        selection=fitter.selection,
    )


class _Fitter:
    """Fits group after group, and keeps the sums that the fallback needs."""

    def __init__(
        self,
        stream: WordStream,
        groups: Sequence[WordGroup],
        options: FitOptions,
        add: Add,
        store: FitStore | None,
    ) -> None:
        self.adapters: dict[str, Tensor] = {}
        self.fallbacks: dict[str, str] = {}
        self.ridges: dict[str, float] = {}
        self.methods: dict[str, Solver] = {}
        self.maps: dict[str, dict[str, Tensor]] = {}
        self.kinds: dict[str, str] = {}
        self.selection: dict[str, dict[str, float]] = {}
        self._stream = stream
        self._groups = groups
        self._options = options
        self._add = add
        self._store = store
        self._common = self._empty()
        self._single = True  # whether float32 products are still worth a try
        self._centres: dict[str, Centre] = {}
        if options.kind is not MapKind.CIRCULANT:
            self._centres = {g.name: stream.centre(g.train) for g in groups if len(g.train)}

    def _empty(self) -> GroupGram:
        stream = self._stream
        return GroupGram(1, *stream.widths, workers=stream.workers, device=stream.device)

    def fit(self, group: WordGroup, number: int) -> None:
        """Fit one t-product, or note why a group uses the fallback; or recall what was found."""
        saved = self._store.load_group(number) if self._store else None
        if saved is not None:
            self._recall(group, saved)
            return
        count, least = len(group.train), self._options.min_words
        gram = None
        if count < least:
            self.fallbacks[group.name] = f"{count} words to fit on, fewer than min_words={least}"
            self._add(count)
        elif self._options.kind.is_product:
            gram = self._solve(group, number)
        if gram is not None:
            self._common.add_face(gram, group.q)
        elif count:
            chunks = self._stream.read(group.train, torch.float64)
            for source, target in centred(chunks, self._centres.get(group.name)):
                self._common.add(self._common.prepare_summed(source, target))
        if self._store is not None:
            self._store.save_group(number, self._found(group, self._common.state()))

    def fit_map(self, group: WordGroup, number: int) -> None:
        """Fit one group whose map is no t-product, or recall it; the fallback is known."""
        if self._options.kind.is_product or group.name in self.fallbacks:
            return
        saved = self._store.load_group(number) if self._store else None
        if saved is not None:
            self._recall(group, saved)
            return
        kind, fallback = self._options.kind, self.adapters[FALLBACK][0]
        most = group.train.segments[0].p  # of all words, those that are held out among them
        words = DenseWords.read(self._stream, group.train, most)
        if kind is MapKind.AUTO:
            kind, self.selection[group.name] = choose_kind(words, self._options, fallback)
        if not kind.is_product:
            self._keep_map(group.name, fit_map(words, kind, self._options, fallback))
            self._add(len(group.train))
        else:
            self._solve(group, number)
        if self._store is not None:
            self._store.save_group(number, self._found(group, None))

    def _keep_map(self, name: str, own: GroupMap) -> None:
        self.kinds[name] = own.kind
        self.maps[name] = {key: value.float() for key, value in own.tensors().items()}

    def _found(self, group: WordGroup, common: State | None) -> FoundGroup:
        name = group.name
        adapter = self.adapters.get(name)
        return FoundGroup(
            adapter=None if adapter is None else adapter.cpu().numpy(),
            fallback=self.fallbacks.get(name),
            ridge=self.ridges.get(name),
            method=self.methods[name].value if adapter is not None else None,
            single=self._single,
            common=common,
            kind=self.kinds.get(name, CIRCULANT),
            tensors={key: own.cpu().numpy() for key, own in self.maps.get(name, {}).items()},
            errors=self.selection.get(name, {}),
        )

    def _recall(self, group: WordGroup, saved: FoundGroup) -> None:
        """Take over what was found for a group before the work was interrupted."""
        name, device = group.name, self._stream.device
        if saved.fallback is not None:
            self.fallbacks[name] = saved.fallback
        if saved.adapter is not None:
            assert saved.ridge is not None
            self.adapters[name] = torch.from_numpy(saved.adapter).to(device)
            self.ridges[name] = saved.ridge
            self.methods[name] = Solver(saved.method)
        if saved.tensors:
            tensors = saved.tensors.items()
            self.maps[name] = {key: torch.from_numpy(own).to(device) for key, own in tensors}
            self.kinds[name] = saved.kind
        if saved.errors:
            self.selection[name] = saved.errors
        self._single = saved.single
        if saved.common is not None:  # only the last group's sums are kept: they hold all before
            self._common = self._empty()
            self._common.add_state(saved.common)
        if saved.adapter is not None or saved.tensors or saved.fallback is not None:
            self._add(len(group.train))

    def fit_fallback(self) -> None:
        """Fit the fallback from the sums of all groups."""
        centre = self._common_centre() if self._centres else None
        rows = WordRows.join(g.train for g in self._groups)
        problem = self._stream.summed_problem(rows, centre)
        solution = solve_problem(problem, self._options.ridge, gram=self._common)
        self._keep(
            FALLBACK, solution, solution.faces, centre and (centre[0][None], centre[1][None])
        )

    def _common_centre(self) -> tuple[Tensor, Tensor]:
        """Return the mean sum of source tokens and target token, once per target token.

        Adds to the sums of the groups, which are about their own means, how these differ.
        """
        known = [(len(g.train), g.q, self._centres[g.name]) for g in self._groups if len(g.train)]
        total = sum(n * q for n, q, _ in known)
        source = torch.stack([x.sum(0) * (n * q / total) for n, q, (x, _) in known]).sum(0)
        target = torch.stack([y.sum(0) * (n / total) for n, _, (_, y) in known]).sum(0)
        for n, _, (x, y) in known:
            away = (x.sum(0) - source)[None, None] * n**0.5, (y - target)[:, None] * n**0.5
            self._common.add(self._common.prepare_summed(*away))
        return source, target

    def measure(self) -> QualityReport:
        """Measure all maps on held-out words; shrink those that are worse than their mean."""
        means = None
        if self._centres and any(len(group.held_out) for group in self._groups):
            means = with_common({n: own[1] for n, own in self._centres.items()}, self._groups)
        found = measure(self._stream, self._groups, self._predictions(), self._add, means)
        if means is None or not found.shrinkage:
            return found.report
        for name, factor in found.shrinkage.items():
            self._shrink(name, factor, means[name])
            logger.debug("map of %s: shrunk by %g towards the mean", name, factor)
        return measure(self._stream, self._groups, self._predictions(), ignore, means).report

    def _shrink(self, name: str, factor: float, mean: Tensor) -> None:
        """Multiply the deviation of a map from the mean ``(q, width)`` of its targets."""
        tensors = self.maps[name]
        if name in self.adapters:
            self.adapters[name] = self.adapters[name] * factor
        else:
            self._keep_map(name, make_map(self.kinds[name], tensors).scaled(factor))
        away = tensors["intercept"].double() - mean
        self.maps[name]["intercept"] = (mean + factor * away).float()

    def _predictions(self) -> dict[str, Predict]:
        found = {}
        for name in {**self.adapters, **self.maps}:
            tensors = self.maps.get(name, {})
            if name in self.adapters:
                found[name] = by_product(self.adapters[name], tensors.get("intercept"))
            else:
                found[name] = by_map(make_map(self.kinds[name], tensors))
        return found

    def _solve(self, group: WordGroup, number: int) -> GroupGram | None:
        centre = self._centres.get(group.name)
        if group.shared:
            problem = self._stream.shared_problem(group.train, group.q, centre)
        else:
            problem = self._stream.problem(group.train, group.k, centre)
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
        self._keep(group.name, solution, faces, centre)
        return solution.gram

    def _keep(self, name: str, solution: Solution, faces: Tensor, centre: Centre | None) -> None:
        self.adapters[name] = faces.to(torch.float32).contiguous()
        self.ridges[name] = solution.ridge
        self.methods[name] = solution.method
        if centre is not None:
            source, target = centre
            mapped = predict(self.adapters[name].double(), source[:, None], len(target))[:, 0]
            self.kinds[name] = AFFINE
            self.maps[name] = {"intercept": (target - mapped).float()}
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
