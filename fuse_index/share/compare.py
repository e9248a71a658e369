"""Differences of two bundles: models, options, words, groups, adapters, quality, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fuse_index.bundle.identity import ModelIdentity
from fuse_index.bundle.read import Bundle
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[Any, Any]
"""A value in the first bundle and in the second; None where one has none."""

SHOWN_WORDS = 10


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

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


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
    models = {role: changed(asdict(pair[0]), asdict(pair[1])) for role, pair in both.items()}
    files = {name: record.sha256 for name, record in a.files.items()}
    other = ("corpus_sha256", "identity", "left_out", "fallbacks", "indexes", "published")
    return Comparison(
        same=a.to_bytes() == b.to_bytes(),
        models={role: found for role, found in models.items() if found},
        fits={role: _fits(*pair) for role, pair in both.items()},
        options=changed(a.options, b.options),
        words=_words(first, second),
        groups=changed(
            {group.name: group.words for group in a.groups},
            {group.name: group.words for group in b.groups},
        ),
        adapters=adapter_differences(first.adapters, second.adapters),
        quality=_quality(a.quality, b.quality),
        other=changed(
            {name: getattr(a, name) for name in (*other, "package_version")},
            {name: getattr(b, name) for name in (*other, "package_version")},
        ),
        files=changed(files, {name: record.sha256 for name, record in b.files.items()}),
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


def _fits(first: ModelIdentity, second: ModelIdentity) -> bool:
    return not first.differences(second)


def _quality(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, Pair]]:
    """Compare quality reports; an entry that is no group is one figure of that name."""
    found = {}
    for name, (one, other) in changed(first, second).items():
        if isinstance(one, Mapping) or isinstance(other, Mapping):
            found[name] = changed(
                one if isinstance(one, Mapping) else {}, other if isinstance(other, Mapping) else {}
            )
        else:
            found[name] = {name: (one, other)}
    return found


def _words(first: Bundle, second: Bundle) -> WordChanges:
    one, other = first.table, second.table
    place = {word: row for row, word in enumerate(other.words)}
    rows = [(row, place[word]) for row, word in enumerate(one.words) if word in place]
    known = set(one.words)
    removed = [word for word in one.words if word not in place]
    added = [word for word in other.words if word not in known]
    left = np.array([pair[0] for pair in rows], np.int64)
    right = np.array([pair[1] for pair in rows], np.int64)
    return WordChanges(
        kept=len(rows),
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
    wrong = np.unique(owners[one.values != other.values])
    return int((~same).sum()) + len(wrong)
