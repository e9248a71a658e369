"""Fitting adapters: words in, one t-product least-squares solution per group out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter.gram import ACCUMULATOR, GroupGram
from fuse_index.adapter.options import FitOptions, Grouping
from fuse_index.adapter.quality import ErrorMeter, GroupQuality, QualityReport
from fuse_index.adapter.solve import solve_group
from fuse_index.errors import ShapeError, VocabularyError

if TYPE_CHECKING:
    from fuse_index.words.ragged import Ragged
    from fuse_index.words.table import WordTable

FALLBACK = "fallback"
Rows = NDArray[np.int64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fit:
    """The result of :func:`fit_adapter`.

    Attributes:
        adapters: ``(k, source_width, target_width)`` float32 by group, always ``"fallback"`` too.
        fallbacks: the groups that use the fallback adapter, and why.
        quality: figures on the held-out words.
        ridges: the ridge used for each adapter, in the units of :class:`FitOptions`.
        options: what the fit was asked for.
    """

    adapters: dict[str, Tensor]
    fallbacks: dict[str, str]
    quality: QualityReport
    ridges: dict[str, float]
    options: FitOptions


@dataclass(frozen=True)
class _Group:
    name: str
    k: int
    train: Rows
    held_out: Rows


def fit_adapter(
    table: WordTable,
    source_embeddings: Tensor,
    target_embeddings: Tensor,
    options: FitOptions | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Fit one adapter per word group.

    Args:
        table: the words and their token ids in both models.
        source_embeddings: ``(source vocabulary, source width)``, floating.
        target_embeddings: ``(target vocabulary, target width)``, floating, same device.
        options: see :class:`FitOptions`.
        progress: called with ``(words done, words in all)``.

    Returns:
        Adapters, fallbacks and the quality report.

    Raises:
        ShapeError: the embeddings are not matrices, or token ids are outside of them.
        VocabularyError: the table has no word.
    """
    options = options or FitOptions()
    _check(table, source_embeddings, target_embeddings)
    groups = _group_words(table, options)
    total = sum(len(g.train) + len(g.held_out) for g in groups)
    done = 0
    widths = source_embeddings.shape[1], target_embeddings.shape[1]
    device = source_embeddings.device
    common = GroupGram(1, *widths, device)
    adapters: dict[str, Tensor] = {}
    fallbacks: dict[str, str] = {}
    ridges: dict[str, float] = {}
    means: dict[str, Tensor] = {}
    for group in groups:
        gram = GroupGram(group.k, *widths, device)
        sums: Tensor | None = None
        for rows in _chunks(group.train, options.chunk_words):
            source = _tokens(source_embeddings, table.source, rows, ACCUMULATOR)
            target = _tokens(target_embeddings, table.target, rows, ACCUMULATOR)
            gram.add(source, target)
            scale = len(target) ** 0.5
            common.add([sum(source[1:], source[0]) * scale], [sum(target[1:], target[0]) / scale])
            column = torch.stack([token.sum(0) for token in target])
            sums = column if sums is None else sums + column
            done += len(rows)
            if progress is not None:
                progress(done, total)
        if sums is not None:
            means[group.name] = sums / len(group.train)
        if len(group.train) < options.min_words:
            fallbacks[group.name] = (
                f"{len(group.train)} words to fit on, fewer than min_words={options.min_words}"
            )
            continue
        solution, ridges[group.name] = solve_group(
            gram.equations(), options.ridge, gram.rows, gram.target_energy
        )
        adapters[group.name] = solution.float()
    solution, ridges[FALLBACK] = solve_group(
        common.equations(), options.ridge, common.rows, common.target_energy
    )
    adapters[FALLBACK] = solution.float()
    quality = _quality(
        table, source_embeddings, target_embeddings, groups, adapters, means, options
    )
    return Fit(adapters, fallbacks, quality, ridges, options)


def _check(table: WordTable, source: Tensor, target: Tensor) -> None:
    if len(table.words) == 0:
        raise VocabularyError("fit_adapter: the word table is empty", expected="at least one word")
    for side, embeddings, ids in (
        ("source", source, table.source.values),
        ("target", target, table.target.values),
    ):
        if embeddings.ndim != 2 or not embeddings.is_floating_point():
            raise ShapeError(
                f"fit_adapter: {side}_embeddings has shape {tuple(embeddings.shape)} and dtype "
                f"{embeddings.dtype}",
                expected="a floating matrix (vocabulary, width)",
            )
        if len(ids) and (ids.min() < 0 or ids.max() >= len(embeddings)):
            raise ShapeError(
                f"fit_adapter: the word table has {side} token ids from {ids.min()} to "
                f"{ids.max()}, but {side}_embeddings has {len(embeddings)} rows",
                remedy="pass the embeddings of the model whose tokenizer made the table",
            )


def _word_keys(words: Sequence[str], seed: int) -> NDArray[np.uint64]:
    key = seed.to_bytes(8, "little")
    digests = b"".join(
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
        for word in words
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _group_words(table: WordTable, options: FitOptions) -> list[_Group]:
    p, q = table.source.lengths, table.target.lengths
    keys = _word_keys(table.words, options.seed)
    held = keys < np.uint64(int(options.holdout * 2**64))
    by_pair = options.grouping is Grouping.PAIR
    labels = np.stack([p if by_pair else np.zeros_like(p), q], axis=1)
    groups = []
    for first, second in np.unique(labels, axis=0):
        rows = np.flatnonzero((labels[:, 0] == first) & (labels[:, 1] == second))
        name = f"{first}x{second}" if by_pair else f"x{second}"
        k = int(max(p[rows].max(), second))
        train = rows[~held[rows]]
        if options.max_words is not None and len(train) > options.max_words:
            train = np.sort(train[np.argsort(keys[train], kind="stable")[: options.max_words]])
        groups.append(_Group(name, k, train, rows[held[rows]]))
    return groups


def _chunks(rows: Rows, size: int) -> Iterator[Rows]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _tokens(embeddings: Tensor, ids: Ragged, rows: Rows, dtype: torch.dtype) -> list[Tensor]:
    starts, lengths = ids.offsets[rows], ids.lengths[rows]
    tokens = []
    for position in range(int(lengths.max())):
        inside = position < lengths
        index = ids.values[np.where(inside, starts + position, 0)]
        token = embeddings[torch.from_numpy(index).to(embeddings.device)].to(dtype)
        if not inside.all():
            token[torch.from_numpy(~inside).to(embeddings.device)] = 0
        tokens.append(token)
    return tokens


def _quality(
    table: WordTable,
    source_embeddings: Tensor,
    target_embeddings: Tensor,
    groups: Sequence[_Group],
    adapters: dict[str, Tensor],
    means: dict[str, Tensor],
    options: FitOptions,
) -> QualityReport:
    report = {}
    overall, overall_baseline = ErrorMeter(), ErrorMeter()
    tokens = sum(len(m) * len(g.train) for g in groups if (m := means.get(g.name)) is not None)
    common_mean = sum(
        (means[g.name].sum(0) * len(g.train) for g in groups if g.name in means),
        torch.zeros(target_embeddings.shape[1], dtype=ACCUMULATOR, device=target_embeddings.device),
    ) / max(tokens, 1)
    for group in groups:
        meter, baseline = ErrorMeter(), ErrorMeter()
        adapter = adapters.get(group.name, adapters[FALLBACK])
        mean = means.get(group.name, common_mean[None])
        for rows in _chunks(group.held_out, options.chunk_words):
            source = _tokens(source_embeddings, table.source, rows, torch.float32)
            target = torch.stack(_tokens(target_embeddings, table.target, rows, torch.float32))
            meter.add(_predict(source, adapter, len(target)), target)
            baseline.add(mean.float()[:, None].expand_as(target), target)
            overall.add(_predict(source, adapters[FALLBACK], len(target)), target)
            overall_baseline.add(common_mean.float().expand_as(target), target)
        report[group.name] = GroupQuality(
            len(group.train), len(group.held_out), *meter.result(), *baseline.result()
        )
    report[FALLBACK] = GroupQuality(
        sum(len(g.train) for g in groups),
        sum(len(g.held_out) for g in groups),
        *overall.result(),
        *overall_baseline.result(),
    )
    return QualityReport(report)


def _predict(source: Sequence[Tensor], faces: Tensor, count: int) -> Tensor:
    """Return the first ``count`` tokens of the t-product, ``(count, n, target_width)``."""
    k = len(faces)
    return torch.stack(
        [
            sum(
                (x @ faces[(t - s) % k] for s, x in enumerate(source)),
                source[0].new_zeros(len(source[0]), faces.shape[-1]),
            )
            for t in range(count)
        ]
    )
