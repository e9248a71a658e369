"""The tokens of a vocabulary: what kind each is, and a sample of every kind.

Nothing is drawn at random: a sample has every added and special token, and of the others those that
begin or end in a character that no other does, multi-byte characters included, and an even spread.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

_ADDED = 1024
_ENDS = 512
_SPREAD = 512
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
