"""Differences of two bundles: models, options, words, groups, adapters, quality, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fuse_index.bundle.read import Bundle
from fuse_index.words.ragged import Ragged

Pair = tuple[Any, Any]
"""A value in the first bundle and in the second; None where one has none."""

SHOWN_WORDS = 10
_OTHER = (
    *("corpus_sha256", "identity", "left_out", "fallbacks", "indexes", "published"),
    "package_version",
)


@dataclass(frozen=True)
class WordChanges:
    """How the words differ.

    Attributes:
        kept: words that both have.
        removed: words that only the first has.
        added: words that only the second has.
        examples_removed: the most frequent of them.
        examples_added: the most frequent of them.
        counts_changed: words of both with another count.
        source_tokens_changed: words of both with other source tokens.
        target_tokens_changed: words of both with other target tokens.
    """

    kept: int
    removed: int
    added: int
    examples_removed: tuple[str, ...]
    examples_added: tuple[str, ...]
    counts_changed: int
    source_tokens_changed: int
    target_tokens_changed: int

    @property
    def any(self) -> bool:
        """Whether anything differs."""
        changed = self.source_tokens_changed + self.target_tokens_changed + self.counts_changed
        return bool(self.removed + self.added + changed)


@dataclass(frozen=True)
class Comparison:
    """What changed from a first bundle to a second; everything that is equal is left out.

    Attributes:
        same: whether all bytes are equal, the manifest's too.
        models: by role, what of the model's identity differs, by field.
        fits: by role, whether both were built for the same tokenizer and embeddings.
        options: build options that differ.
        words: how the words differ.
        groups: number of words, by group.
        adapters: ``||G1 - G2|| / ||G1||`` by group; None where only one has the group, or the
            shapes differ.
        quality: figures of the quality report that differ, by group and figure.
        other: whatever else of the manifest differs.
        files: sha256 of the files that differ.
    """

    same: bool
    models: Mapping[str, Mapping[str, Pair]]
    fits: Mapping[str, bool]
    options: Mapping[str, Pair]
    words: WordChanges
    groups: Mapping[str, Pair]
    adapters: Mapping[str, float | None]
    quality: Mapping[str, Mapping[str, Pair]]
    other: Mapping[str, Pair]
    files: Mapping[str, Pair]


def compare_bundles(first: Bundle, second: Bundle) -> Comparison:
    """Compare two bundles.

    Args:
        first: read with its words and adapter.
        second: likewise.

    Returns:
        What changed from the first to the second.
    """
    a, b = first.manifest, second.manifest
    both = {role: (getattr(a, role), getattr(b, role)) for role in ("source", "target")}
    models = {role: changed(asdict(one), asdict(other)) for role, (one, other) in both.items()}
    return Comparison(
        same=a.to_bytes() == b.to_bytes(),
        models={role: found for role, found in models.items() if found},
        fits={role: not one.differences(other) for role, (one, other) in both.items()},
        options=changed(a.options, b.options),
        words=_words(first, second),
        groups=changed(*({group.name: group.words for group in m.groups} for m in (a, b))),
        adapters=adapter_differences(first.adapters, second.adapters),
        quality=_quality(a.quality, b.quality),
        other=changed(*({name: getattr(m, name) for name in _OTHER} for m in (a, b))),
        files=changed(*({name: file.sha256 for name, file in m.files.items()} for m in (a, b))),
    )


def changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    """Return the entries that differ, in the order of the first and then of the second."""
    names = dict.fromkeys([*first, *second])
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {
        name: pair
        for name, pair in pairs.items()
        if pair[0] != pair[1] or (name in first) != (name in second)
    }


def adapter_differences(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> dict[str, float | None]:
    """Return ``||G1 - G2|| / ||G1||`` (Frobenius, float64) of every group whose values differ.

    Args:
        first: ``(k, source width, target width)`` by group.
        second: likewise.
    """
    found: dict[str, float | None] = {}
    for name in dict.fromkeys([*first, *second]):
        if name not in first or name not in second or first[name].shape != second[name].shape:
            found[name] = None
            continue
        one, other = first[name].double(), second[name].double()
        if not bool((one == other).all()):
            scale = float(one.norm()) or 1.0
            found[name] = float((one - other).norm()) / scale
    return found


def _quality(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, Pair]]:
    """Compare quality reports; an entry that is no group is one figure of that name."""
    found = {}
    for name, pair in changed(first, second).items():
        if any(isinstance(side, Mapping) for side in pair):
            found[name] = changed(*(s if isinstance(s, Mapping) else {} for s in pair))
        else:
            found[name] = {name: pair}
    return found


def _words(first: Bundle, second: Bundle) -> WordChanges:
    one, other = first.table, second.table
    rows = [{word: row for row, word in enumerate(table.words)} for table in (one, other)]
    both = [word for word in one.words if word in rows[1]]
    removed = [word for word in one.words if word not in rows[1]]
    added = [word for word in other.words if word not in rows[0]]
    left, right = (np.array([known[word] for word in both], np.int64) for known in rows)
    return WordChanges(
        kept=len(both),
        removed=len(removed),
        added=len(added),
        examples_removed=tuple(removed[:SHOWN_WORDS]),
        examples_added=tuple(added[:SHOWN_WORDS]),
        counts_changed=int((one.counts[left] != other.counts[right]).sum()),
        source_tokens_changed=_rows_changed(one.source.select(left), other.source.select(right)),
        target_tokens_changed=_rows_changed(one.target.select(left), other.target.select(right)),
    )


def _rows_changed(first: Ragged, second: Ragged) -> int:
    """Count the rows that differ."""
    same = first.lengths == second.lengths
    rows = np.flatnonzero(same)
    one, other = first.select(rows), second.select(rows)
    owners = np.repeat(np.arange(len(rows)), one.lengths)
    return int((~same).sum()) + len(np.unique(owners[one.values != other.values]))
