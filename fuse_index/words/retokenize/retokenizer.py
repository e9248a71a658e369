"""From the source's token ids to the target's: no text, no Python per token.

The result equals ``target.encode_text(source.decode(row))`` for every row, by construction: a row
takes the fast path only where the source's decoder is known to concatenate bytes and the target is
proved to tokenize the parts of the text independently; every other row goes through the tokenizers
and is remembered.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from fuse_index.common.options import Count, Flag, options
from fuse_index.errors import VocabularyError
from fuse_index.words.ragged import Int64, Ragged, offsets_of
from fuse_index.words.retokenize.alignment import align_rows
from fuse_index.words.retokenize.parts import (
    DONE,
    EXACT,
    PartTable,
    Pass,
    PythonParts,
    encode_parts,
)
from fuse_index.words.retokenize.plain_encoder import plain_encoder_of
from fuse_index.words.retokenize.rows import ConvertedRow, checked_rows, with_rows
from fuse_index.words.table import WordTable
from fuse_index.words.tokenizers.decoding import DecodePlan, decode_plan
from fuse_index.words.tokenizers.locality import Locality, locality_of
from fuse_index.words.tokenizers.tokenization import WordTokenizer

logger = logging.getLogger(__name__)


@options()
class RetokenizerOptions:
    """How a retokenizer works; the results do not depend on it.

    Attributes:
        threads: threads for large batches; None takes one a core, at most 8.
        max_parts: parts remembered before the cache is emptied.
        max_rows: rows remembered that only the tokenizers could convert.
        native: take the extension where it is there; False takes Python.

    Raises:
        OptionError: if a number is below 1.
    """

    threads: Count | None = None
    max_parts: Count = 1 << 20
    max_rows: Count = 1 << 15
    native: Flag = True


@dataclass(frozen=True, eq=False)
class Retokenized:
    """Rows of source ids in the target's tokens, with the words they consist of.

    A word is a white-space-delimited piece of the text that begins where a token of the source
    begins; pieces that a token spans are one word. Every token of both sides belongs to one.

    Args:
        target: ``n`` rows of target ids.
        source_word_offsets: ``(W + 1,)`` int64: source tokens of every word, in the rows' tokens
            packed one row after another (padding left out).
        target_word_offsets: ``(W + 1,)`` int64: the same in ``target.values``.
        word_row_offsets: ``(n + 1,)`` int64: words of every row.
    """

    target: Ragged
    source_word_offsets: Int64
    target_word_offsets: Int64
    word_row_offsets: Int64

    @property
    def source_counts(self) -> Int64:
        """``(W,)`` int64: source tokens p of every word."""
        return np.diff(self.source_word_offsets)

    @property
    def target_counts(self) -> Int64:
        """``(W,)`` int64: target tokens q of every word."""
        return np.diff(self.target_word_offsets)


class Retokenizer:
    """Converts rows of source ids to target ids; may be shared between threads.

    Args:
        source: the source's tokenizer.
        target: the target's tokenizer.
        table: words with their target tokens, to begin with; None begins with an empty cache.
        options: see :class:`RetokenizerOptions`.

    Raises:
        VocabularyError: if the table was made for another target tokenizer.
    """

    def __init__(
        self,
        source: WordTokenizer,
        target: WordTokenizer,
        table: WordTable | None = None,
        options: RetokenizerOptions | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.options = options or RetokenizerOptions()
        self._threads = self.options.threads or min(8, os.cpu_count() or 1)
        self._table = table
        self._rows: OrderedDict[bytes, ConvertedRow] = OrderedDict()
        plan, self._locality = decode_plan(source.backend), locality_of(target.backend)
        self._parts: PartTable | None = None
        if plan is not None and self._locality is not None:
            self._parts = _part_table(plan, self._locality, target, native=self.options.native)
        if table is not None:
            _check_table(table, target)
            self._insert_table()
        logger.debug("retokenizer: %s", self.path)

    @property
    def path(self) -> str:
        """How rows are converted, for people: ``native``, ``python`` or ``tokenizers``."""
        if self._parts is None:
            return "tokenizers"
        return "python" if isinstance(self._parts, PythonParts) else "native"

    def retokenize(self, ids: Any, lengths: Any = None) -> Retokenized:
        """Convert rows of source ids.

        Args:
            ids: ``(n, L)`` integers; beyond a row's length they are ignored.
            lengths: ``(n,)`` integers from 0 to L; None takes all of every row.

        Returns:
            The target's rows and words.

        Raises:
            ShapeError: if the arrays are not of these shapes and kinds.
            VocabularyError: if an id is outside the source's vocabulary.
        """
        ids, lengths = checked_rows(ids, lengths, self.source.vocab_size)
        found = self._pass(ids, lengths)
        exact = np.flatnonzero(found.status != DONE)
        if len(exact):
            found = with_rows(found, exact, self._exact_rows(ids, lengths, exact))
        return Retokenized(
            Ragged(offsets_of(found.target_counts), found.target),
            offsets_of(found.p),
            offsets_of(found.q),
            offsets_of(found.word_counts),
        )

    def _pass(self, ids: Int64, lengths: Int64) -> Pass:
        """Look all rows up, filling the cache until no part is missing."""
        if self._parts is None:
            none = np.zeros(0, np.int64)
            zeros = np.zeros(len(ids), np.int64)
            return Pass(np.full(len(ids), EXACT, np.uint8), zeros, none, zeros, none, none, set())
        if len(self._parts) > self.options.max_parts:
            self._parts.clear()
            self._insert_table()
        while True:
            found = Pass(*self._parts.process(ids, lengths, self._threads))
            if not found.missing:
                return found
            self._resolve(sorted(found.missing))

    def _resolve(self, missing: list[tuple[bytes, bool]]) -> None:
        """Fill the cache from the real tokenizer."""
        assert self._parts is not None
        assert self._locality is not None
        parts = [(part.decode(), initial) for part, initial in missing]
        packed, whole = encode_parts(self.target, self._locality, parts)
        self._parts.insert(
            [part for part, _ in missing],
            bytes(initial for _, initial in missing),
            bytes(whole),
            packed.offsets,
            packed.values,
        )

    def _insert_table(self) -> None:
        """Put the words of the table into the cache, as they stand after a space."""
        table, locality = self._table, self._locality
        if table is None or self._parts is None or locality is None:
            return
        keep = [i for i, word in enumerate(table.words) if not locality.whole(f" {word}")]
        packed = table.target.select(keep)
        self._parts.insert(
            [f" {table.words[i]}".encode() for i in keep],
            bytes(len(keep)),
            bytes(len(keep)),
            packed.offsets,
            packed.values,
        )

    def _exact_rows(self, ids: Int64, lengths: Int64, rows: Int64) -> list[ConvertedRow]:
        """Convert rows with the tokenizers, or recall them."""
        keys = [ids[row, : lengths[row]].tobytes() for row in rows]
        known = {key: self._rows.get(key) for key in keys}
        fresh = [key for key, found in known.items() if found is None]
        source_rows = [np.frombuffer(key, np.int64).tolist() for key in fresh]
        texts = self.source.decode_batch(source_rows)
        target_rows = self.target.encode_texts(texts).to_lists()
        words = align_rows(texts, source_rows, target_rows, self.source, self.target)
        for key, row, (p, q) in zip(fresh, target_rows, words, strict=True):
            known[key] = self._rows[key] = (row, p, q)
        while len(self._rows) > self.options.max_rows:
            self._rows.popitem(last=False)
        return [found for key in keys if (found := known[key]) is not None]


def _part_table(
    plan: DecodePlan, locality: Locality, target: WordTokenizer, *, native: bool
) -> PartTable:
    """The extension's table, or the one in Python where it is not there."""
    if not native:
        return PythonParts(plan, locality)
    from fuse_index.ops import _native  # noqa: PLC0415 - imports torch

    module = _native.module()
    if module is None:
        logger.info("retokenizing in Python: %s", _native.status().reason)
        return PythonParts(plan, locality)
    tables = []
    for pieces in (plan.first, plan.inside):
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        tables += [offsets_of(lengths), b"".join(pieces)]
    extension = module.Retokenizer(
        *tables, plan.exact.tobytes(), plan.strip, locality.neighbours.tobytes()
    )
    plain = None if locality.anchor else plain_encoder_of(target.backend)
    if plain is not None:
        extension.use(plain)
    table: PartTable = extension
    return table


def _check_table(table: WordTable, target: WordTokenizer) -> None:
    """Compare some of a table's words with the tokenizer it is said to be for."""
    some = np.unique(np.linspace(0, len(table) - 1, min(len(table), 64)).astype(np.int64))
    words = [table.words[i] for i in some]
    if not target.encode_words(words).equals(table.target.select(some)):
        raise VocabularyError(
            "the word table's target tokens are not those of the target tokenizer",
            expected="a table built for this pair of tokenizers",
        )
