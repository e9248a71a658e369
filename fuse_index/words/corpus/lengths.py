"""Words and lines of bounded length, so that reading never holds much of a text.

A file without white space (one line of base64, a dump of a database, a disk image) is one word to
:meth:`str.split`. No tokenizer makes few tokens of a word this long, so it would not enter a table.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

logger = logging.getLogger(__name__)

LONGEST_WORD = 1 << 13
"""Characters of a word; longer ones are left out."""
LONGEST_LINE = 1 << 24
"""Characters of a line where texts or words stand one a line."""

_WINDOW = LONGEST_WORD // 2
"""Of a word that is too long, one of the windows of this length holds no white space."""
_SPACE = re.compile(r"\s")  # the same characters as str.split and str.isspace


def without_long_words(pieces: Iterator[str], name: str) -> Iterator[str]:
    """Leave out words of more than :data:`LONGEST_WORD` characters, and say how many.

    Args:
        pieces: a text; words may be split between two of them.
        name: of the text, for the message.

    Yields:
        The rest of the text in other pieces, which end at white space, but for the last.
    """
    held, dropping, count = "", False, 0
    for piece in pieces:
        if dropping:
            found = _SPACE.search(piece)
            if found is None:
                continue
            piece, dropping = piece[found.start() :], False  # noqa: PLW2901 - what is left of it
        text = held + piece
        held = _last_word(text)
        text = text[: len(text) - len(held)]
        if len(held) > LONGEST_WORD:
            held, dropping, count = "", True, count + 1
        text, found_here = _cut_long(text)
        count += found_here
        if text:
            yield text
    if held:
        yield held
    report_long_words(count, name)


def report_long_words(count: int, name: str) -> None:
    """Say how many words of a text were left out for their length, if any."""
    if count:
        logger.warning(
            "%s: %d words of more than %d characters are left out", name, count, LONGEST_WORD
        )


def _last_word(text: str) -> str:
    """The word that a text ends with; empty if it ends with white space."""
    if not text or text[-1].isspace():
        return ""
    near = text[-LONGEST_WORD - 1 :]
    last = near.rsplit(None, 1)[-1]
    return last if len(last) < len(near) else text.rsplit(None, 1)[-1]


def _cut_long(text: str) -> tuple[str, int]:
    """Cut long words out of a text that ends with white space; return it and their number."""
    kept, done = [], 0
    for start in range(0, len(text) - _WINDOW + 1, _WINDOW):
        if start < done or _SPACE.search(text, start, start + _WINDOW):
            continue
        begin = start - len(_last_word(text[max(done, start - _WINDOW) : start]))
        found = _SPACE.search(text, start + _WINDOW)
        end = len(text) if found is None else found.start()
        if end - begin > LONGEST_WORD:
            kept.append(text[done:begin])
            done = end
    return ("".join([*kept, text[done:]]), len(kept)) if kept else (text, 0)


def split_lines(pieces: Iterator[str]) -> Iterator[str | None]:
    """Split a text at line feeds, and only there.

    Yields:
        The lines without their ends; None for one of more than :data:`LONGEST_LINE` characters.
    """
    held: list[str] = []
    size = 0
    for piece in pieces:
        *lines, rest = piece.split("\n")
        for line in lines:
            size += len(line)
            yield "".join([*held, line]) if size <= LONGEST_LINE else None
            held, size = [], 0
        size += len(rest)
        held.append(rest)
        if size > LONGEST_LINE:
            held.clear()
    yield "".join(held) if size <= LONGEST_LINE else None
