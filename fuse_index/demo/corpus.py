"""Text of the demo's world: its vocabulary, and sentences by the thousand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

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
    words: set[str] = set(_FUNCTION_WORDS.split())
    tables = (SHAPES, COLOURS, SIZES, BACKGROUNDS, RELATIONS, PRONOUN_RELATIONS)
    phrases = [phrase for table in tables for group in table.values() for phrase in group]
    phrases += [phrase for group in PLACES.values() for phrase in group]
    phrases += [word for table in (ADJECTIVES, VERBS) for group in table.values() for word in group]
    phrases += [frame.format(picture="", a="") for frame in FRAMES]
    phrases += [*GROUNDS, *PICTURES, *STANDS, *DETERMINERS, *ADVERBS]
    for phrase in phrases:
        words.update(phrase.split())
    return tuple(sorted(words))


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
    path = Path(path)
    lines = [sentence.text for sentence in corpus(Split.TRAIN, scenes, seed=seed)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_vocabulary(path: str | Path) -> Path:
    """Write the grammar's words to a file, one a line, for ``fuse-index build --words``."""
    path = Path(path)
    path.write_text("".join(f"{word}\n" for word in vocabulary()), encoding="utf-8")
    return path
