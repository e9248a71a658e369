"""Words to try a tokenizer on, of a script that its vocabulary has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from weakref import WeakKeyDictionary

from fuse_index.words.tokenizers.backends import Backend
from fuse_index.words.tokenizers.vocabulary import spread

PROBE_WORDS = ("the", "a", "photo", "of", "two", "dogs", "running", "unbelievable", "Paris", "7")
"""Everyday words, for every vocabulary that has some of them."""
PROBE_TEXT = "a few words"
_ANCHOR = "a"

_TEXTS = ("two dogs", "a photo of dogs", "Paris!", "dogs.", "(7)", "it: the")

_KNOWN_WORDS = 3
_CANDIDATES = 4096
_SINGLE = 6
_JOINED = 4
_found: WeakKeyDictionary[Backend, tuple[str, ...]] = WeakKeyDictionary()


def probe_words(backend: Backend) -> tuple[str, ...]:
    """Words that a tokenizer knows: :data:`PROBE_WORDS`, or some of another script.

    Args:
        backend: the private copy of the tokenizer.

    Returns:
        About ten words; :data:`PROBE_WORDS` too where the vocabulary has no words at all.
    """
    if backend not in _found:
        _found[backend] = _probe_words(backend)
    return _found[backend]


def probe_anchor(backend: Backend) -> str:
    """A word that a tokenizer knows, to put others behind.

    Args:
        backend: the private copy of the tokenizer.
    """
    words = probe_words(backend)
    return _ANCHOR if words is PROBE_WORDS else words[0]


def probe_prompts(backend: Backend) -> tuple[str, ...]:
    """Words, and a few texts of them, that tell the ways of tokenizing a prompt apart.

    Args:
        backend: the private copy of the tokenizer.
    """
    words = probe_words(backend)
    if words is PROBE_WORDS:
        return (*words, *_TEXTS)
    first, second = words[:2]
    return (*words, f"{first} {second}", f"{second}!", f"{first}.", f"({second})")


def _probe_words(backend: Backend) -> tuple[str, ...]:
    if sum(_are_known(backend, PROBE_WORDS)) >= _KNOWN_WORDS:
        return PROBE_WORDS
    outside = backend.special_ids | backend.added_ids
    ids = [id_ for id_, token in enumerate(backend.tokens) if token and id_ not in outside]
    ids = spread(ids, _CANDIDATES)
    texts = [text.strip() for text in backend.decode_batch([[id_] for id_ in ids])]
    for suits in (str.isalpha, str.isalnum, str.isprintable):
        words = [text for text in dict.fromkeys(texts) if _is_one(text) and suits(text)]
        words = _known(backend, words)
        if len(words) >= _KNOWN_WORDS:
            joined = [a + b for a, b in pairwise(words)]
            return (*spread(words, _SINGLE), *spread(_known(backend, joined), _JOINED))
    return PROBE_WORDS


def _is_one(text: str) -> bool:
    return bool(text) and "\ufffd" not in text and not any(map(str.isspace, text))


def _known(backend: Backend, words: Sequence[str]) -> list[str]:
    known = zip(words, _are_known(backend, words), strict=True)
    return [word for word, here in known if here]


def _are_known(backend: Backend, words: Sequence[str]) -> list[bool]:
    """Of each word, whether it has tokens and none of them is the unknown one."""
    rows = backend.encode_batch(words)
    return [bool(row) and backend.unknown_id not in row for row in rows]
