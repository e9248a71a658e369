"""Which words share an adapter, which are fitted on and which are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.adapter.fit.options import FitOptions, Grouping

if TYPE_CHECKING:
    from fuse_index.words.table import WordTable

FALLBACK = "fallback"


@dataclass(frozen=True)
class WordGroup:
    """Words that share an adapter.

    Attributes:
        name: ``"{p}x{q}"``, or ``"x{q}"`` where the target alone decides.
        k: tube length, the largest number of tokens on either side.
        q: target tokens of every word.
        shared: whether every word has one source token.
        train: words to fit on: rows of the word table, or of a file.
        held_out: words to measure on.
    """

    name: str
    k: int
    q: int
    shared: bool
    train: Any
    held_out: Any


def group_words(table: WordTable, options: FitOptions) -> list[WordGroup]:
    """Sort words into groups, and decide which are fitted on and which are held out.

    A word's lot depends on the word and the seed only, not on the other words or their order.
    """
    p, q = table.source.lengths, table.target.lengths
    if options.holdout > 0 or options.max_words is not None:
        keys = word_keys(table.words, options.seed)
    else:  # nothing to draw
        keys = np.zeros(len(table.words), dtype=np.uint64)
    held_out = keys < held_out_below(options)
    if held_out.all():
        held_out[:] = False
    by_pair = options.grouping is Grouping.PAIR
    width = int(q.max()) + 1
    labels = (p if by_pair else np.zeros_like(p)) * width + q
    groups = []
    for label in np.unique(labels).tolist():
        first, second = divmod(label, width)
        rows = np.flatnonzero(labels == label)
        most = int(p[rows].max())
        train = rows[~held_out[rows]]
        if options.max_words is not None and len(train) > options.max_words:
            drawn = np.lexsort((train, keys[train]))[: options.max_words]
            train = np.sort(train[drawn])
        groups.append(
            WordGroup(
                name=f"{first}x{second}" if by_pair else f"x{second}",
                k=max(most, second),
                q=second,
                shared=most == 1,
                train=train,
                held_out=rows[held_out[rows]],
            )
        )
    return groups


def held_out_below(options: FitOptions) -> np.uint64:
    """The number below which a word's key holds it out."""
    below: np.uint64 = np.uint64(int(options.holdout * 2**64))
    return below


def word_keys(words: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return one uniform 64-bit number per word: a keyed hash of the word itself."""
    key = seed.to_bytes((seed.bit_length() + 7) // 8 or 1, "little")
    digests = [
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
        for word in words
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
