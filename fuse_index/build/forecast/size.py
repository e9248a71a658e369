"""The sizes of the files of a bundle, laid out from the numbers of its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fuse_index.adapter.fit.groups import group_name, most_source_tokens, split_words
from fuse_index.build.options import BuildOptions
from fuse_index.bundle.layout import ADAPTER, CARD, FALLBACK, GROUPS, MANIFEST, WORDS
from fuse_index.bundle.tensorfile import TensorSpec, file_size
from fuse_index.bundle.wordfile import group_position
from fuse_index.words.table import WordTable

Pair = tuple[int, int]

_TEXT_BYTES = {CARD: 2_600.0, MANIFEST: 2_100.0}
_TEXT_GROUP = {CARD: 95.0, MANIFEST: 300.0}  # its lines of the card, its quality report
_STRING_BYTES = 58  # a Python string and its place in a tuple, without its characters


@dataclass(frozen=True)
class GroupForecast:
    """A predicted word group.

    Attributes:
        name: as in the bundle.
        words: expected number.
        tube: of its adapter, or of its group tensors where it has none.
        own: whether it has an adapter; words of other groups use the fallback.
    """

    name: str
    words: float
    tube: int
    own: bool


@dataclass(frozen=True)
class Footprint:
    """What a bundle takes.

    Attributes:
        groups: of the words, without the fallback.
        files: bytes on the disk, by file.
        adapter_bytes: of the adapters in memory, float32.
        words_bytes: of the word table in memory.
    """

    groups: tuple[GroupForecast, ...]
    files: dict[str, float]
    adapter_bytes: float
    words_bytes: float


def footprint(
    table: WordTable,
    weights: NDArray[np.float64],
    widths: tuple[int, int],
    options: BuildOptions,
    *,
    identity: bool = False,
) -> Footprint:
    """Lay out the files of a bundle.

    Args:
        table: a sample of its words.
        weights: ``(n,)``, how many words of the bundle each stands for.
        widths: of source and target embeddings.
        options: of the build.
        identity: whether both models are the same.
    """
    text = float(np.dot(weights, [len(word.encode("utf-8")) for word in table.words]))
    return lay_out(
        weighted_sizes(table, weights),
        text,
        widths,
        groups=_groups(table, weights, options, identity),
        with_groups=options.groups,
        identity=identity,
    )


def lay_out(
    sizes: Mapping[Pair, float],
    text: float,
    widths: tuple[int, int],
    *,
    groups: tuple[GroupForecast, ...] | None = None,
    with_groups: bool = True,
    identity: bool = False,
) -> Footprint:
    """Lay out the files of a bundle from the numbers of its words.

    Args:
        sizes: words by (p, q).
        text: bytes of all words in UTF-8.
        widths: of source and target embeddings.
        groups: of the words; if not given, every (p, q) has an adapter.
        with_groups: whether group tensors are written.
        identity: whether both models are the same.
    """
    if groups is None:
        groups = tuple(GroupForecast(f"{p}x{q}", n, max(p, q), True) for (p, q), n in sizes.items())
    words = sum(sizes.values())
    ids = [sum(n * pair[side] for pair, n in sizes.items()) for side in (0, 1)]
    files = {WORDS: float(file_size(_word_specs(round(words), round(text), *map(round, ids))))}
    tubes = {group.name: group.tube for group in groups if group.own}
    if not identity:
        tubes[FALLBACK] = 1
        specs = [TensorSpec(f"adapter.{name}", "F32", (k, *widths)) for name, k in tubes.items()]
        files[ADAPTER] = float(file_size(specs))
    if with_groups:
        files[GROUPS] = float(file_size(_group_specs(sizes, list(tubes), widths)))
    for name, least in _TEXT_BYTES.items():
        files[name] = least + _TEXT_GROUP[name] * len(groups) * (not identity)  # no report then
    faces = 0 if identity else sum(tubes.values())
    return Footprint(
        groups,
        files,
        adapter_bytes=4.0 * faces * widths[0] * widths[1],
        words_bytes=files[WORDS] + words * _STRING_BYTES,
    )


def _groups(
    table: WordTable, weights: NDArray[np.float64], options: BuildOptions, identity: bool
) -> tuple[GroupForecast, ...]:
    found = []
    most = most_source_tokens(table, options.fit)
    for label, _, train, held_out in split_words(table, options.fit):
        fitted = float(weights[train].sum())
        words = fitted + float(weights[held_out].sum())
        name = group_name(label)
        if options.fit.max_words is not None:
            words = _of_shape(table, weights, name)
        own = identity or round(fitted) >= options.fit.min_words
        found.append(GroupForecast(name, words, max(most[label], label[1]), own))
    return tuple(found)


def _of_shape(table: WordTable, weights: NDArray[np.float64], name: str) -> float:
    """All words of a group, those that are not fitted on included."""
    p, _, q = name.partition("x")
    mask = table.target.lengths == int(q)
    if p:
        mask &= table.source.lengths == int(p)
    return float(weights[mask].sum())


def _word_specs(words: int, text: int, source_ids: int, target_ids: int) -> list[TensorSpec]:
    sizes = {
        "words.bytes": text,
        "words.offsets": words + 1,
        "words.counts": words,
        "words.groups": words,
        "source.offsets": words + 1,
        "source.ids": source_ids,
        "target.offsets": words + 1,
        "target.ids": target_ids,
    }
    dtypes = {name: "U8" if name == "words.bytes" else "I64" for name in sizes}
    return [TensorSpec(name, dtypes[name], (size,)) for name, size in sizes.items()]


def _group_specs(
    sizes: Mapping[Pair, float], names: list[str], widths: tuple[int, int]
) -> list[TensorSpec]:
    words, tubes = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1)
    for (p, q), count in sizes.items():
        name = names[group_position(names, p, q)]
        words[name] += count
        tubes[name] = max(tubes[name], p, q)
    return [
        TensorSpec(f"{side}.{name}", "F32", (round(words[name]), tubes[name], width))
        for name in names
        for side, width in zip(("source", "target"), widths, strict=True)
    ]


def weighted_sizes(table: WordTable, weights: NDArray[np.float64]) -> Mapping[Pair, float]:
    """How many words there will be of ``p`` source and ``q`` target tokens, by ``(p, q)``."""
    pairs, inverse = np.unique(table.shapes, axis=0, return_inverse=True)
    sums = np.bincount(inverse.reshape(-1), weights, len(pairs))
    return {(p, q): float(n) for (p, q), n in zip(pairs.tolist(), sums, strict=True)}
