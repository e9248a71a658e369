"""Which words are compositional: joined by spaces they have the tokens of each, in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fuse_index.words.ragged import Int64, Ragged, offsets_of
from fuse_index.words.tokenizers.cleaning import is_plain
from fuse_index.words.tokenizers.tokenization import WordTokenizer

NEIGHBOURS = ("the", "7", "é", "中文", "<b>", ",", "ok")
"""Words of every kind, to test a word between that is not plain ASCII or failed before."""

_CHAIN = 12
_ROUNDS = 3
_BATCH = 4096

Flags = NDArray[np.bool_]
Item = TypeVar("Item")


class _Test:
    """The words to test, with their tokens when each is tokenized alone."""

    def __init__(self, tokenizer: WordTokenizer, words: Sequence[str], rows: Ragged) -> None:
        self._tokenizer = tokenizer
        self._words = words
        self._rows = rows
        self._neighbours: list[tuple[str, list[int]]] | None = None

    def failing(self, chains: Sequence[list[int]]) -> list[list[int]]:
        """The chains of words that, joined by spaces, have other tokens than their words."""
        words = self._words
        got = self._tokenizer.encode_running(
            [" ".join([words[i] for i in chain]) for chain in chains]
        )
        lengths = np.fromiter(map(len, chains), np.int64, len(chains))
        members = np.fromiter((i for chain in chains for i in chain), np.int64, int(lengths.sum()))
        rows = self._rows.select(members)
        expected = Ragged(rows.offsets[offsets_of(lengths)], rows.values)
        if got.equals(expected):  # nearly always
            return []
        return _different(chains, got, expected.to_lists())

    def failing_words(self, words: Iterable[int]) -> set[int]:
        """Those of the words that fail beside themselves or a word of :data:`NEIGHBOURS`."""
        tested = sorted(words)
        if self._neighbours is None:
            self._neighbours = _compositional_neighbours(self._tokenizer)
        texts, expected = [], []
        for index in tested:
            word, own = self._words[index], self._rows[index].tolist()
            text, ids = f"{word} {word}", own + own
            for neighbour, tokens in self._neighbours:
                text += f" {neighbour} {word}"
                ids += tokens + own
            texts.append(text)
            expected.append(ids)
        return set(_different(tested, self._tokenizer.encode_running(texts), expected))


def are_compositional(
    tokenizer: WordTokenizer,
    words: Sequence[str],
    rows: Ragged,
    progress: Callable[[int], None] | None = None,
) -> Flags:
    """Test every word beside itself and in random chains of words.

    Words that are not plain ASCII, and those of chains that fail, are also tested between words of
    every kind (:data:`NEIGHBOURS`).

    Args:
        tokenizer: the tokenizer.
        words: ``n`` distinct words, the most important first: of words that fail only together,
            the last one is left out.
        rows: their tokens, from :meth:`WordTokenizer.encode_words`.
        progress: called with the number of words tested since the last call.

    Returns:
        ``(n,)`` booleans: True for the compositional words.
    """
    test = _Test(tokenizer, words, rows)
    keep = np.fromiter(map(tokenizer.backend.independent, words), np.bool_, len(words))
    odd = [i for i, word in enumerate(words) if keep[i] and not is_plain(word)]
    for start in range(0, len(odd), _BATCH):
        keep[sorted(test.failing_words(odd[start : start + _BATCH]))] = False
    generator = np.random.default_rng(0)
    done = 0
    for number in range(_ROUNDS):
        order = generator.permutation(np.flatnonzero(keep))
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            keep[sorted(_left_out(test, part if number else np.repeat(part, 2)))] = False
            if progress is not None:
                now = (number * len(words) + (start + len(part))) // _ROUNDS
                progress(now - done)
                done = now
    if progress is not None and done < len(words):
        progress(len(words) - done)
    return keep


def _left_out(test: _Test, order: Int64) -> set[int]:
    """Words to leave out so that the chains of ``order`` have the tokens of their words."""
    chains = [order[i : i + _CHAIN].tolist() for i in range(0, len(order), _CHAIN)]
    left: set[int] = set()
    while chains := test.failing(chains):
        pairs = test.failing([list(pair) for chain in chains for pair in pairwise(chain)])
        bad = test.failing_words({index for pair in pairs for index in pair})
        # Of words that fail only together the less important one is left out.
        bad |= {max(pair) for pair in pairs if not bad & set(pair)}
        for chain in chains:
            left |= bad & set(chain) or {max(chain)}
        chains = [[index for index in chain if index not in left] for chain in chains]
    return left


def _compositional_neighbours(tokenizer: WordTokenizer) -> list[tuple[str, list[int]]]:
    """Those of the neighbours that are compositional among themselves, with their tokens."""
    rows = tokenizer.encode_words(NEIGHBOURS).to_lists()
    kept: list[tuple[str, list[int]]] = []
    for neighbour, ids in zip(NEIGHBOURS, rows, strict=True):
        pairs = [*kept, (neighbour, ids), (neighbour, ids)]
        (got,) = tokenizer.encode_running([" ".join(word for word, _ in pairs)]).to_lists()
        if got == [id_ for _, tokens in pairs for id_ in tokens]:
            kept.append((neighbour, ids))
    return kept


def _different(items: Sequence[Item], got: Ragged, expected: Sequence[list[int]]) -> list[Item]:
    """Those of the items whose tokens are not what was expected."""
    rows = zip(items, got.to_lists(), expected, strict=True)
    return [item for item, ids, want in rows if ids != want]
