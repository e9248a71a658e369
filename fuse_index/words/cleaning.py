"""Whether a word is cleaned the same in any company.

open_clip cleans a whole text before it tokenizes: ``ftfy`` undoes mojibake and HTML entities are
resolved. One word that looks like mojibake makes ``ftfy`` re-decode the whole line, other words
included, so such a word breaks the law in ways that a few trials do not show.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import cast

# What ftfy.badness.BADNESS_RE looks at beyond a space: lower-case letters and punctuation.
_BEFORE = ("", "a ", ". ", "» ")
_AFTER = ("", " a", " «", " »")
_LEVELS = 4


def is_plain(text: str) -> bool:
    """Whether cleaning leaves a text alone but for its white space: printable ASCII, no entity."""
    return text.isascii() and text.isprintable() and "&" not in text


def cleans_alone(word: str) -> bool:
    """Whether no neighbour can change how a word is cleaned, nor the word its neighbours.

    Args:
        word: a word without white space.

    Returns:
        True if the word is plain, or in no company looks like mojibake to ``ftfy``, however many
        levels of entities are resolved in it.
    """
    if is_plain(word):
        return True
    looks_bad = _badness()
    for _ in range(_LEVELS):
        if any(looks_bad(before + word + after) for before, after in product(_BEFORE, _AFTER)):
            return False
        resolved = html.unescape(word)
        if resolved == word:
            return True
        word = resolved
    return False


@cache
def _badness() -> Callable[[str], bool]:
    try:
        from ftfy.badness import is_bad  # noqa: PLC0415 - only open_clip needs it
    except ImportError:  # another way of cleaning: trust plain words only
        return lambda _: True
    return cast(Callable[[str], bool], is_bad)
