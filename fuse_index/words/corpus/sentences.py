"""Sentences of a corpus: text, and captions in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fuse_index.common.progress import ignore
from fuse_index.errors import CorpusError
from fuse_index.words.corpus.reading import TextSource, find_sources, read_text

MOST_WORDS = 64
"""Words of a sentence; longer ones are no prompts to begin from."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")
_LONG_LINE = 200
"""Characters of a line from which on it is taken for running text, and cut into sentences."""
_ONE_LINE = 1 << 22
"""Characters that are held of one line, at most."""
_JSON, _JSON_LINES = (".json", ".json.gz"), (".jsonl", ".jsonl.gz")
_FIELDS = ("caption", "captions", "raw", "text", "sentence", "sentences")
"""Fields of JSON that hold sentences: COCO's annotations and results, Karpathy's splits, lists."""


def read_sentences(given: Sequence[str | Path], *, encoding: str = "utf-8") -> list[str]:
    """Read the sentences of a corpus, each once, in the order of the files.

    A line of text is a sentence; a long one is cut behind full stops. In files called ``.json`` or
    ``.jsonl`` sentences stand in fields called caption, captions, raw, text, sentence or sentences
    at any depth, in lists of texts, or in one object of the images' names. White space is one
    space; what has no letter or more than :data:`MOST_WORDS` words is left out.

    Args:
        given: what :func:`~fuse_index.words.corpus.reading.find_sources` takes.
        encoding: of text and JSON.

    Raises:
        CorpusError: a file is missing, unreadable or no JSON; or the corpus has no sentence.
    """
    found: dict[str, None] = {}
    for source in find_sources(given):
        for text in _texts_of(source, encoding):
            sentence = " ".join(text.split())
            usable = any(map(str.isalpha, sentence)) and sentence.count(" ") < MOST_WORDS
            if usable and not _has_surrogate(sentence):
                found.setdefault(sentence)
    if not found:
        raise CorpusError(
            f"corpus {', '.join(map(str, given))}: no sentence",
            expected=f"lines, or captions in JSON, of letters and at most {MOST_WORDS} words",
        )
    return list(found)


def _texts_of(source: TextSource, encoding: str) -> Iterator[str]:
    name = source.name.lower()
    pieces = read_text(source, encoding, ignore)
    if name.endswith(_JSON):
        value = _parsed("".join(pieces), source.name)
        if isinstance(value, dict) and all(map(_is_texts, value.values())):
            value = list(value.values())  # captions by the image's name
        yield from _captions(value)
    elif name.endswith(_JSON_LINES):
        for number, line in enumerate(_lines(pieces), 1):
            if line.strip():
                yield from _captions(_parsed(line, f"{source.name}, line {number}"))
    else:
        for line in _lines(pieces):
            yield from _SENTENCE_END.split(line) if len(line) > _LONG_LINE else (line,)


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        yield from whole
        if len(rest) > _ONE_LINE:
            yield rest
            rest = ""
    yield rest


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CorpusError(f"{name} is not JSON ({reason})", expected="captions in JSON") from None


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    )


def _captions(value: Any) -> Iterator[str]:
    """Texts that stand in no field, or in one of sentences."""
    waiting = [(value, True)]
    while waiting:
        item, named = waiting.pop()
        if isinstance(item, str):
            if named:
                yield item
        elif isinstance(item, list):
            waiting += [(own, named) for own in reversed(item)]
        elif isinstance(item, dict):
            waiting += [(own, key in _FIELDS) for key, own in reversed(item.items())]


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)
