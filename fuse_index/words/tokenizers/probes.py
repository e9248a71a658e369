"""Tokens and words to try a tokenizer on, chosen from its own vocabulary.

Nothing is drawn at random: every added and special token is tried, and of the others the ones that
begin or end in a character that no other does, multi-byte characters included, and an even spread.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from fuse_index.words.tokenizers.backends import Backend

PROBE_WORDS = ("the", "a", "photo", "of", "two", "dogs", "running", "unbelievable", "Paris", "7")
"""Everyday words, for every vocabulary that has some of them."""
PROBE_TEXT = "a few words"

_KNOWN_WORDS = 3
_ADDED = 1024
_ENDS = 512
_SPREAD = 512
_CANDIDATES = 4096
_SINGLE = 6
_JOINED = 4
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_MARKS = re.compile(r"^(?:##|[Ġ▁])?(.+?)(?:</w>)?$", re.DOTALL)

Item = TypeVar("Item")


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of the items, at even distances, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def sample_ids(tokens: Sequence[str | None], added: Iterable[int]) -> list[int]:
    """Ids of tokens of every kind, in order.

    Args:
        tokens: the token of every id, None in gaps.
        added: ids of added and special tokens.

    Returns:
        All added ones (of more than a thousand an even spread), for every first and last character
        a token, and an even spread of all.
    """
    known = [id_ for id_, token in enumerate(tokens) if token]
    chosen = set(spread(sorted(id_ for id_ in added if tokens[id_]), _ADDED))
    chosen.update(spread(known, _SPREAD))
    for place in (0, -1):
        ends = {(tokens[id_] or "")[place]: id_ for id_ in reversed(known)}
        chosen.update(spread(sorted(ends.values()), _ENDS))
    return sorted(chosen)


def is_character(token: str) -> bool:
    """Whether a token is one character of text, or a byte of one, and so never a mark-up."""
    return len(_core(token)) == 1 or _BYTE.fullmatch(token) is not None


def is_word(token: str) -> bool:
    """Whether a token is letters and digits alone."""
    return _core(token).isalnum()


def _core(token: str) -> str:
    """A token without what says where in a word it stands."""
    found = _MARKS.match(token)
    return found[1] if found else token


def has_words(vocabulary: Iterable[str], special: Collection[str]) -> bool:
    """Whether a vocabulary can spell anything: it has a letter that is no special token.

    A tokenizer that transformers makes up from a configuration has special tokens alone.
    """
    return any(
        any(map(str.isalnum, token)) and not _BYTE.fullmatch(token)
        for token in vocabulary
        if token not in special
    )


def probe_words(backend: Backend) -> tuple[str, ...]:
    """Words that a tokenizer knows: :data:`PROBE_WORDS`, or some of another script.

    Args:
        backend: the private copy of the tokenizer.

    Returns:
        About ten words; :data:`PROBE_WORDS` too where the vocabulary has no words at all.
    """
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
