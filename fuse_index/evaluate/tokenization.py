"""Captions into words: COCO's Penn Treebank tokenizer, or a plain one that needs no Java."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

from fuse_index.errors import MissingDependencyError
from fuse_index.evaluate.java import require_java, run_java

_LOGGER = logging.getLogger(__name__)
_PTB = ("the PTB tokenizer", "tokenizer.ptbtokenizer")


class Tokenization(str, Enum):
    """How captions are cut into words before n-grams are compared."""

    PTB = "ptb"
    """The Stanford tokenizer of COCO's evaluation, which needs Java: published figures use it."""
    PLAIN = "plain"
    """:func:`plain_words`: the same words in most captions, anywhere."""


def tokenize(texts: Sequence[str], how: Tokenization) -> list[list[str]]:
    """Cut texts into words.

    Args:
        texts: any texts; every kind of white space is one space.
        how: by which tokenizer.

    Returns:
        The words of every text, lower-case, without punctuation; none where there are none.

    Raises:
        MissingDependencyError: PTB, and pycocoevalcap or Java is missing.
    """
    if how is Tokenization.PTB:
        return ptb_words(texts)
    return [plain_words(text) for text in texts]


def choose_tokenization(wanted: Tokenization | None) -> Tokenization:
    """Return what is wanted; None takes PTB where it can run, and warns where it cannot."""
    if wanted is not None:
        return wanted
    try:
        metrics_module(*_PTB)
        require_java(_PTB[0])
    except MissingDependencyError as error:
        _LOGGER.warning("%s; the plain tokenizer is used instead", error.given)
        return Tokenization.PLAIN
    return Tokenization.PTB


# -- Penn Treebank ----------------------------------------------------------------------------


def ptb_words(texts: Sequence[str]) -> list[list[str]]:
    """Cut texts into words as COCO's evaluation does.

    It runs pycocoevalcap's own jar with its options and drops its list of punctuation, but passes
    texts through pipes, so the folder of pycocoevalcap may be read-only, and no line end inside a
    caption can shift captions to other images.

    Raises:
        MissingDependencyError: pycocoevalcap or Java is missing, or the tokenizer failed.
    """
    module = metrics_module(*_PTB)
    jar = Path(module.__file__).parent / module.STANFORD_CORENLP_3_4_1_JAR
    lines = [" ".join(text.split()) for text in texts]
    output = run_java(
        _PTB[0],
        ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"],
        "".join(line + "\n" for line in lines),
    )
    found = output.split("\n")[:-1]
    if len(found) != len(lines):
        raise MissingDependencyError(
            f"the PTB tokenizer failed: {len(found)} lines for {len(lines)} captions",
            remedy="use the plain tokenizer",
        )
    dropped = frozenset(module.PUNCTUATIONS)
    return [[word for word in line.split() if word not in dropped] for line in found]


def metrics_module(what: str, name: str) -> Any:
    """Import a module of pycocoevalcap, an extra.

    Args:
        what: what needs it, for the message.
        name: of the module, below pycocoevalcap.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return import_module(f"pycocoevalcap.{name}")
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} needs pycocoevalcap, which is not installed",
            remedy="pip install 'fuse-index[metrics]'",
        ) from error


# -- plain ------------------------------------------------------------------------------------

_INSIDE_WORDS = frozenset(map(ord, "-'.,/"))


class _Translation(dict[int, int]):
    """Punctuation to spaces, filled as characters occur; typographic apostrophes to plain ones."""

    def __missing__(self, code: int) -> int:
        char = chr(code)
        if code not in _INSIDE_WORDS and unicodedata.category(char).startswith("P"):
            self[code] = ord(" ")
        else:
            self[code] = code
        return self[code]


_TRANSLATION = _Translation({ord("’"): ord("'"), ord("‘"): ord("'")})
_CLITIC = r"(?:n't|'(?:s|m|d|re|ve|ll))(?!\S)"
_COMMA = re.compile(r"(?<!\d),|,(?!\d)")
_ENDS = re.compile(rf"(?<!\S)(?!{_CLITIC})[-'.,/]+|[-'.,/]+(?!\S)")
_CLITIC_IN_WORD = re.compile(rf"(?<=\w)(?={_CLITIC})")


def plain_words(text: str) -> list[str]:
    """Cut a text into words without Java.

    Lower case; white space and Unicode punctuation separate words, but hyphens, apostrophes, full
    stops and slashes inside a word and commas between digits stay; "'s", "n't" and their like are
    words of their own, as in the Penn Treebank.
    """
    spaced = text.lower().translate(_TRANSLATION)
    spaced = _COMMA.sub(" ", spaced)
    spaced = _ENDS.sub(" ", spaced)
    return _CLITIC_IN_WORD.sub(" ", spaced).split()
