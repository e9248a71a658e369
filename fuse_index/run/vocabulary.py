"""Words to build an adapter from where there is no corpus: those that two tokenizers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fuse_index.errors import VocabularyError
from fuse_index.optimize.tokens import token_texts
from fuse_index.words.corpus.words import CorpusOptions, WordCounts, count_words

if TYPE_CHECKING:
    from fuse_index.models.base import Model

_SUFFICIENT = 200
"""Shared words that an adapter should be built from at least; below, the message says so."""


def whole_words(model: Model) -> set[str]:
    """Return the words of letters that a model holds as one token inside running text."""
    texts = {text.strip() for text in token_texts(model)}
    words = sorted(text for text in texts if text.isalpha())
    rows = model.words.encode_words(words)
    return {word for word, length in zip(words, rows.lengths, strict=True) if length == 1}


def shared_words(source: Model, target: Model, texts: Sequence[str | Path] = ()) -> WordCounts:
    """Return the words that both models hold as one token, and those of texts.

    Args:
        source: the model whose tokens are optimized.
        target: the model whose loss is differentiated.
        texts: files whose words are added, whatever tokens they take.

    Raises:
        VocabularyError: there is no word.
        CorpusError: a text cannot be read.
    """
    counts: Counter[str] = Counter(whole_words(source) & whole_words(target))
    if texts:
        own = count_words(list(texts), CorpusOptions())
        counts.update(dict(zip(own.words, own.counts[:].tolist(), strict=True)))
    if not counts:
        raise VocabularyError(
            f"{source.name} and {target.name} hold no word as one token both",
            expected="words to build an adapter from",
            remedy="give a corpus (--adapters.corpus) or a list of words (--adapters.words)",
        )
    items = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words, numbers = zip(*items, strict=True)
    return WordCounts(words, np.array(numbers, np.int64))


def few_words(count: int) -> bool:
    """Whether so many shared words are too few for a good adapter."""
    return count < _SUFFICIENT
