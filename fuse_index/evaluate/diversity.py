"""How varied captions are: vocabulary, distinct n-grams, distinct captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fuse_index.errors import ShapeError
from fuse_index.evaluate.tokenization import Tokenization, tokenize


@dataclass(frozen=True)
class Diversity:
    """Variety of a set of captions, over words of the plain tokenizer.

    Attributes:
        vocabulary: different words.
        words: all words.
        distinct_1: different words over all words (Li et al. 2016).
        distinct_2: different pairs of neighbouring words over all such pairs; 0 without any.
        captions: share of captions that are different.
    """

    vocabulary: int
    words: int
    distinct_1: float
    distinct_2: float
    captions: float


def measure_diversity(captions: Sequence[str]) -> Diversity:
    """Measure the variety of captions.

    Args:
        captions: at least one; figures of sets of different sizes do not compare.

    Raises:
        ShapeError: there is none.
    """
    if not captions:
        raise ShapeError("0 captions", expected="at least one")
    rows = tokenize(captions, Tokenization.PLAIN)
    words = [word for row in rows for word in row]
    pairs = [pair for row in rows for pair in pairwise(row)]
    return Diversity(
        vocabulary=len(set(words)),
        words=len(words),
        distinct_1=_share(words),
        distinct_2=_share(pairs),
        captions=_share([tuple(row) for row in rows]),
    )


def _share(items: Iterable[object]) -> float:
    """Different items over all items."""
    found = list(items)
    return len(set(found)) / len(found) if found else 0.0
