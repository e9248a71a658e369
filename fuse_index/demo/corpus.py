"""Text of the demo's world: its vocabulary, and sentences by the thousand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fuse_index.demo.grammar import Sentence, SentenceOptions, make_sentences
from fuse_index.demo.lexicon import (
    ADJECTIVES,
    ADVERBS,
    BACKGROUNDS,
    COLOURS,
    DETERMINERS,
    FRAMES,
    GROUNDS,
    PICTURES,
    PLACES,
    PRONOUN_RELATIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    STANDS,
    VERBS,
)
from fuse_index.demo.scene import make_scene
from fuse_index.demo.splits import Split
from fuse_index.errors import OptionError

_FUNCTION_WORDS = "an and against do has how i in is it looks not of on that there what which with"


@cache
def vocabulary() -> tuple[str, ...]:
    """Return every word the grammar can write, in alphabetical order."""
    tables: list[Mapping[Any, tuple[str, ...]]] = [SHAPES, COLOURS, SIZES, BACKGROUNDS, RELATIONS]
    tables += [PRONOUN_RELATIONS, PLACES, ADJECTIVES, VERBS]
    phrases = [phrase for table in tables for group in table.values() for phrase in group]
    phrases += [frame.format(picture="", a="") for frame in FRAMES]
    phrases += [_FUNCTION_WORDS, *GROUNDS, *PICTURES, *STANDS, *DETERMINERS, *ADVERBS]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def corpus(
    split: Split,
    scenes: int,
    *,
    sentences: int = 4,
    seed: int = 0,
    start: int = 0,
    options: SentenceOptions | None = None,
) -> Iterator[Sentence]:
    """Write sentences about the scenes of a split, one scene after another.

    Args:
        split: whose scenes.
        scenes: how many.
        sentences: how many about each.
        seed: of the world and of the sentences.
        start: number of the first scene.
        options: what the sentences are like.

    Raises:
        OptionError: a number is negative.
    """
    if scenes < 0:
        raise OptionError(f"scenes={scenes}", expected="at least 0")
    for index in range(start, start + scenes):
        scene = make_scene(split, index, seed=seed)
        yield from make_sentences(scene, sentences, seed=seed, options=options)


def write_corpus(path: str | Path, scenes: int = 2000, *, seed: int = 0) -> Path:
    """Write training sentences to a file, one a line, for ``fuse-index build --corpus``."""
    return _write(path, (sentence.text for sentence in corpus(Split.TRAIN, scenes, seed=seed)))


def write_vocabulary(path: str | Path) -> Path:
    """Write the grammar's words to a file, one a line, for ``fuse-index build --words``."""
    return _write(path, vocabulary())


def _write(path: str | Path, lines: Iterable[str]) -> Path:
    path = Path(path)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
