"""Rows of source ids to target ids through a cache of parts: the portable twin of ``csrc/words``.

A row is decoded by concatenating the bytes of its tokens, its text is cut where the target's
:class:`Locality` allows it, and the ids of every part come from a cache. Parts the cache lacks are
reported and filled in by the caller; rows this does not work for are reported, too. The extension's
``Retokenizer`` has the same methods and gives the same results, faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fuse_index.words.ragged import Int64, Ragged
from fuse_index.words.tokenizers.decoding import DecodePlan
from fuse_index.words.tokenizers.locality import Locality
from fuse_index.words.tokenizers.tokenization import WordTokenizer

DONE, EXACT, MISSING = 0, 1, 2
"""A row's status: its ids are there; only the tokenizers know them; parts were not in the cache."""


class Pass(NamedTuple):
    """What one pass over ``n`` rows found; rows that are not done have neither ids nor words."""

    status: NDArray[np.uint8]
    """``(n,)``: DONE, EXACT or MISSING."""
    target_counts: Int64
    """``(n,)``: target tokens of every row."""
    target: Int64
    """The target tokens of all rows, packed."""
    word_counts: Int64
    """``(n,)``: words of every row."""
    p: Int64
    """Source tokens of every word, all rows in order."""
    q: Int64
    """Target tokens of every word."""
    missing: set[tuple[bytes, bool]]
    """The parts the cache lacks: their bytes, and whether they begin their text."""


class PartTable(Protocol):
    """The cache of parts, with the pass that uses it."""

    def __len__(self) -> int: ...

    def process(
        self, ids: Int64, lengths: Int64, threads: int
    ) -> tuple[NDArray[np.uint8], Int64, Int64, Int64, Int64, Int64, set[tuple[bytes, bool]]]:
        """Look the rows ``ids`` ``(n, width)``, valid up to ``lengths``, up: see :class:`Pass`."""

    def insert(
        self, parts: list[bytes], initial: bytes, whole: bytes, offsets: Int64, ids: Int64
    ) -> None:
        """Add parts with packed ids; ``initial`` and ``whole`` have one byte, 0 or 1, a part."""

    def clear(self) -> None:
        """Forget all parts."""


class PythonParts:
    """The part table in Python.

    Args:
        plan: how the source decodes.
        locality: where the target's text may be cut.
    """

    def __init__(self, plan: DecodePlan, locality: Locality) -> None:
        self._plan = plan
        self._locality = locality
        self._parts: dict[tuple[bytes, bool], tuple[int, ...] | None] = {}

    def __len__(self) -> int:
        return len(self._parts)

    def clear(self) -> None:
        """Forget all parts."""
        self._parts.clear()

    def insert(
        self, parts: list[bytes], initial: bytes, whole: bytes, offsets: Int64, ids: Int64
    ) -> None:
        """Add parts; see :class:`PartTable`."""
        values, bounds = ids.tolist(), offsets.tolist()
        for number, part in enumerate(parts):
            row = tuple(values[bounds[number] : bounds[number + 1]])
            key = part, bool(initial[number])
            self._parts.setdefault(key, None if whole[number] else row)

    def process(self, ids: Int64, lengths: Int64, threads: int) -> Pass:
        """Look rows up; see :class:`PartTable`. ``threads`` is of no use here."""
        missing: set[tuple[bytes, bool]] = set()
        rows = zip(ids.tolist(), lengths.tolist(), strict=True)
        results = [self._row(row[:length], missing) for row, length in rows]
        status = [result if isinstance(result, int) else DONE for result in results]
        found = [([], [], []) if isinstance(result, int) else result for result in results]
        target, p, q = (Ragged.from_lists([row[part] for row in found]) for part in range(3))
        return Pass(
            np.array(status, np.uint8),
            *(target.lengths, target.values, p.lengths, p.values, q.values),
            missing,
        )

    def _row(
        self, row: list[int], missing: set[tuple[bytes, bool]]
    ) -> int | tuple[list[int], list[int], list[int]]:
        """Ids and the p and q of the words of one row, or why there are none."""
        decoded = self._plan.decode(row)
        if decoded is None:
            return EXACT
        text, starts = decoded
        cuts = self._locality.cuts(text)
        offsets = byte_offsets(text, cuts)
        data = text.encode()
        ids: list[int] = []
        ends = []  # target tokens up to the end of each part
        lacking = False
        for begin, end in zip([0, *offsets], [*offsets, len(data)], strict=True):
            key = data[begin:end], begin == 0
            if key not in self._parts:
                missing.add(key)
                lacking = True
            elif (found := self._parts[key]) is None:
                return EXACT
            else:
                ids += found
            ends.append(len(ids))
        return MISSING if lacking else (ids, *words_of(offsets, ends, starts))


def encode_parts(
    target: WordTokenizer, locality: Locality, parts: Sequence[tuple[str, bool]]
) -> tuple[Ragged, list[bool]]:
    """Encode parts as they stand in a text, with the real tokenizer.

    Args:
        target: the tokenizer.
        locality: where its texts may be cut.
        parts: ``n`` parts; each with whether it begins its text.

    Returns:
        ``n`` rows of ids, and ``n`` flags: True for a part that must not be tokenized alone, of
        which the row is empty.
    """
    whole = [locality.whole(text) for text, _ in parts]
    rows: list[list[int]] = [[] for _ in parts]
    alone = [number for number, refused in enumerate(whole) if not refused]
    anchor = locality.anchor
    before = target.encode_text(anchor) if anchor else []
    texts = [text if initial else anchor + text for text, initial in (parts[n] for n in alone)]
    for number, row in zip(alone, target.encode_texts(texts).to_lists(), strict=True):
        if parts[number][1]:
            rows[number] = row
        elif row[: len(before)] == before:
            rows[number] = row[len(before) :]
        else:  # against the proof; the whole text is right in any case
            whole[number] = True
    return Ragged.from_lists(rows), whole


def words_of(
    cuts: Sequence[int], ends: Sequence[int], starts: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The words of a row: parts of its text between cuts that meet the start of a source token.

    Args:
        cuts: offsets of the spaces that begin the second and later parts.
        ends: target tokens up to the end of every part, one more than cuts.
        starts: the offset at which every source token begins; a token that begins at a cut or
            right after its space begins a word.

    Returns:
        The source and the target tokens of every word.
    """
    p, q = [], []
    token = word_token = word_target = 0
    for cut, end in zip(cuts, ends, strict=False):
        while token < len(starts) and starts[token] < cut:
            token += 1
        if token < len(starts) and starts[token] <= cut + 1:
            p.append(token - word_token)
            q.append(end - word_target)
            word_token, word_target = token, end
    if starts or ends[-1] > word_target:
        p.append(len(starts) - word_token)
        q.append(ends[-1] - word_target)
    return p, q


def byte_offsets(text: str, characters: Sequence[int]) -> list[int]:
    """Offsets in characters, rising, to offsets in UTF-8 bytes."""
    if text.isascii():
        return list(characters)
    offsets, at, done = [], 0, 0
    for character in characters:
        at += len(text[done:character].encode())
        done = character
        offsets.append(at)
    return offsets
