"""Whether a word is cleaned the same in any company.

open_clip cleans a whole text before it tokenizes: ``ftfy`` undoes mojibake and HTML entities are
resolved. One word that looks like mojibake makes ``ftfy`` re-decode the whole line, other words
included, so such a word is not compositional in ways that a few tests do not show.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Callable
from functools import cache, lru_cache
from typing import cast

Clean = Callable[[str], str]

# ftfy.badness.BADNESS_RE looks beyond a space for lower-case letters and the beginning of a text.
_COMPANY = ("{}", "{} a", "a {} a", "» {} «")
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
        if any(looks_bad(company.format(word)) for company in _COMPANY):
            return False
        resolved = html.unescape(word)
        if resolved == word:
            return True
        word = resolved
    return False


def cleans_locally(part: str) -> bool:
    """Whether a part of a text is cleaned by itself, whatever such parts stand beside it.

    Stricter than :func:`cleans_alone`: there is nothing in the part, before or after cleaning, that
    ``ftfy`` takes for mojibake, for an entity or for an escape sequence. What is left of its fixes
    replaces single characters.

    Args:
        part: a piece of text that begins and ends at a space.
    """
    if is_plain(part):
        return True
    repair, looks_bad = _repair(), _badness()
    repaired = repair(part)
    if "&" in part + repaired or "\x1b" in part:
        return False
    if repaired != part and repair(repaired) != repaired:
        return False
    # ftfy repairs line by line: what does not look bad inside a text may do so as a line
    lines = {line.strip() for text in (part, repaired) for line in (text, *text.split("\n"))}
    return not any(looks_bad(company.format(line)) for line in lines for company in _COMPANY)


def without_repair(clean: Clean | None) -> Clean | None:
    """One of open_clip's ways to clean, less what does nothing to plain text, or None."""
    name = getattr(clean, "__name__", "")
    module = getattr(clean, "__module__", "")
    if clean is None or not module.startswith("open_clip."):
        return None
    if name == "_clean_canonicalize":
        return cast(Clean, importlib.import_module(module).canonicalize_text)
    ways: dict[str, Clean] = {"_clean_lower": _collapse_lower, "_clean_whitespace": _collapse}
    return ways.get(name)


def with_repair(light: Clean) -> Clean:
    """The whole of one of open_clip's ways to clean, from the rest of it."""
    repair = _repair()

    def clean(text: str) -> str:
        return light(html.unescape(html.unescape(repair(text))).strip())

    return clean


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _collapse_lower(text: str) -> str:
    return " ".join(text.split()).lower()


@cache
def _repair() -> Clean:
    from ftfy import fix_text  # noqa: PLC0415 - only open_clip needs it

    return lru_cache(1 << 14)(fix_text)


@cache
def _badness() -> Callable[[str], bool]:
    try:
        from ftfy.badness import is_bad  # noqa: PLC0415 - only open_clip needs it
    except ImportError:  # another way of cleaning: trust plain words only
        return lambda _: True
    return cast(Callable[[str], bool], is_bad)
