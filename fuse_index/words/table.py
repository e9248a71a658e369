"""Tables of the words that two tokenizers share, with their tokens in each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fuse_index.common.options import TokenLimit, options
from fuse_index.common.progress import Add, Tick, adding
from fuse_index.errors import ShapeError, VocabularyError
from fuse_index.words.corpus.words import WordCounts
from fuse_index.words.ragged import Ragged
from fuse_index.words.tokenizers.compositionality import Flags, are_compositional
from fuse_index.words.tokenizers.tokenization import WordTokenizer, is_valid_text

logger = logging.getLogger(__name__)

SHARD_WORDS = 1 << 18
"""Words that are tokenized and tried for the law together. A part of the definition of a table:
a word's random company is drawn among the words of its shard."""


@options()
class TableOptions:
    """Which words enter a table.

    Attributes:
        max_tokens: words of more tokens, in either model, are left out.

    Raises:
        OptionError: if ``max_tokens`` is below 1.
    """

    max_tokens: TokenLimit = 4


class Blocks(Protocol):
    """A word table of any size, read a part at a time."""

    def blocks(self) -> Iterator[WordTable]:
        """Yield the parts in their order."""

    def sizes(self) -> Mapping[tuple[int, int], int]:
        """Return how many words have ``p`` source and ``q`` target tokens, by ``(p, q)``."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class WordTable:
    """Words, how often they occur, and their tokens in the source and the target.

    Args:
        words: ``n`` distinct words, the most frequent first.
        counts: ``(n,)`` int64.
        source: ``n`` rows of source token ids; their lengths are the p of the word groups.
        target: ``n`` rows of target token ids; their lengths are the q.

    Raises:
        ShapeError: if the four do not have the same length.
    """

    words: Sequence[str]
    counts: NDArray[np.int64]
    source: Ragged
    target: Ragged

    def __post_init__(self) -> None:
        sizes = {
            "words": len(self.words),
            "counts": len(self.counts),
            "source": len(self.source),
            "target": len(self.target),
        }
        if len(set(sizes.values())) != 1:
            raise ShapeError(f"WordTable: {sizes}", expected="the same length for all")

    def __len__(self) -> int:
        return len(self.words)

    @property
    def shapes(self) -> NDArray[np.int64]:
        """``(n, 2)`` int64: the token counts (p, q) of every word."""
        return np.stack([self.source.lengths, self.target.lengths], axis=1)

    def blocks(self) -> Iterator[WordTable]:
        """Yield the table; see :class:`Blocks`."""
        yield self

    def sizes(self) -> dict[tuple[int, int], int]:
        """Return the number of words by token counts; see :class:`Blocks`."""
        return count_shapes(self.source.lengths, self.target.lengths)

    @classmethod
    def concatenate(cls, tables: Sequence[WordTable]) -> WordTable:
        """Join tables, one after the other."""
        return cls(
            tuple(word for table in tables for word in table.words),
            np.concatenate([table.counts for table in tables]),
            Ragged.concatenate([table.source for table in tables]),
            Ragged.concatenate([table.target for table in tables]),
        )

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> WordTable:
        """The table of some of its words, by index or mask."""
        indices = np.arange(len(self))[rows]
        return WordTable(
            tuple(self.words[i] for i in indices.tolist()),
            self.counts[indices],
            self.source.select(indices),
            self.target.select(indices),
        )


def count_shapes(p: NDArray[np.int64], q: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """Count words by their token counts ``p`` and ``q``, (n,) each."""
    width = int(q.max(initial=0)) + 1
    labels, counts = np.unique(p * width + q, return_counts=True)  # tenfold np.unique(axis=0)
    return {divmod(a, width): n for a, n in zip(labels.tolist(), counts.tolist(), strict=True)}


def build_word_table(
    counts: WordCounts,
    source: WordTokenizer,
    target: WordTokenizer,
    options: TableOptions | None = None,
    progress: Tick | None = None,
) -> tuple[WordTable, dict[str, int]]:
    """Tokenize words with both tokenizers and keep those that both treat as words.

    Args:
        counts: the words, the most frequent first.
        source: the source's tokenizer.
        target: the target's tokenizer.
        options: see :class:`TableOptions`.
        progress: called with (steps done, steps in total); a step is a word in one tokenizer.

    Returns:
        The table, in the order of ``counts``, and how many words were left out by reason. A word
        is counted once, under the first reason met, the source's before the target's.

    Raises:
        VocabularyError: if no word is left.
    """
    options = options or TableOptions()
    report = adding(progress, 2 * len(counts))
    tables, left_out = [], Counter[str]()
    for start in range(0, len(counts), SHARD_WORDS):
        part = counts.part(start, start + SHARD_WORDS)
        table, reasons = tabulate(part, source, target, options, report)
        tables.append(table)
        left_out.update(reasons)
    return WordTable.concatenate(tables), finish_table(len(counts), sum(map(len, tables)), left_out)


def finish_table(counted: int, kept: int, left_out: Mapping[str, int]) -> dict[str, int]:
    """Return why words were left out of a finished table, in the order of a manifest.

    Raises:
        VocabularyError: no word is left.
    """
    reasons = {reason: count for reason, count in sorted(left_out.items()) if count}
    if not kept:
        raise VocabularyError(
            f"none of {counted} words can be tokenized by both models; left out: {reasons}",
            expected="at least one word",
            remedy="use another corpus, or raise the limit of tokens a word",
        )
    logger.info("%d of %d words enter the table; left out: %s", kept, counted, reasons)
    return reasons


def tabulate(
    counts: WordCounts,
    source: WordTokenizer,
    target: WordTokenizer,
    options: TableOptions,
    report: Add,
    *,
    tell: Callable[[str, list[str]], None] | None = None,
) -> tuple[WordTable, Counter[str]]:
    """Make the part of a table that belongs to one shard of at most :data:`SHARD_WORDS` words.

    Args:
        counts: the words of the shard.
        source: the source's tokenizer.
        target: the target's tokenizer.
        options: see :class:`TableOptions`.
        report: called with the steps done since the last call; a step is a word in one tokenizer.
        tell: called with a reason and the words that are left out for it.

    Returns:
        The words that both treat as words, perhaps none, and how many were left out by reason.
    """
    all_words, numbers = counts.words[:], counts.counts[:]
    alive = np.flatnonzero(np.fromiter(map(is_valid_text, all_words), np.bool_, len(counts)))
    left_out = Counter({"not valid Unicode": len(counts) - len(alive)})
    if tell is not None and len(alive) < len(counts):
        invalid = np.setdiff1d(np.arange(len(counts)), alive)
        tell("not valid Unicode", [all_words[i] for i in invalid.tolist()])
    sides: list[Ragged] = []
    for side, tokenizer in (("source", source), ("target", target)):
        words = [all_words[i] for i in alive.tolist()]
        rows = tokenizer.encode_words(words)
        keep = np.ones(len(words), np.bool_)
        for reason, bad in _faults(tokenizer, rows, options.max_tokens):
            left_out[f"{side}: {reason}"] += int((keep & bad).sum())
            if tell is not None:
                tell(f"{side}: {reason}", [words[i] for i in np.flatnonzero(keep & bad)])
            keep &= ~bad
        candidates = np.flatnonzero(keep)
        lawful = are_compositional(
            tokenizer, [words[i] for i in candidates], rows.select(candidates), report
        )
        report(len(counts) - len(candidates))
        left_out[f"{side}: breaks the law"] += int((~lawful).sum())
        if tell is not None:
            tell(f"{side}: breaks the law", [words[i] for i in candidates[~lawful]])
        kept = candidates[lawful]
        alive = alive[kept]
        sides = [rows.select(kept) for rows in (*sides, rows)]
    words_kept = tuple(all_words[i] for i in alive.tolist())
    return WordTable(words_kept, numbers[alive], *sides), left_out


def _faults(tokenizer: WordTokenizer, rows: Ragged, max_tokens: int) -> Iterator[tuple[str, Flags]]:
    """Reasons that show in the tokens themselves, each with the words it concerns."""
    lengths = rows.lengths
    yield "no tokens", lengths == 0
    unknown = set() if tokenizer.unknown_id is None else {tokenizer.unknown_id}
    yield "unknown tokens", _rows_with(rows, unknown)
    yield "special tokens", _rows_with(rows, tokenizer.special_ids - unknown)
    yield f"more than {max_tokens} tokens", lengths > max_tokens


def _rows_with(rows: Ragged, ids: Collection[int]) -> Flags:
    """``(n,)``: whether a row holds one of ``ids``."""
    found = np.zeros(len(rows), np.bool_)
    hits = np.flatnonzero(np.isin(rows.values, list(ids)))
    found[np.searchsorted(rows.offsets, hits, side="right") - 1] = True
    return found
