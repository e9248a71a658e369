"""Pictures and sentences for the training of the demo's CLIP, in groups of four near misses."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from _demo_spoil import BYTES, said, shown, spoil
from _demo_training import Plan, spread
from PIL import Image

from fuse_index.demo import FULL, Scene, SentenceOptions, Split, draw, make_scene, make_sentences
from fuse_index.demo.drawing import INKS, PAPERS, PIXELS
from fuse_index.demo.lexicon import COLOURS
from fuse_index.demo.splits import pairs_of
from fuse_index.demo.variants import near_miss

GROUP = 4
SENTENCES = 6
VERSIONS = 4
"""Of a sentence: itself, and spoiled ones."""
CONTEXT = 48
CHUNK = 50
DETAIL = SentenceOptions(detail=0.96)
UNNAMED = 0.25
"""Share of training's groups in which things have colours without a name."""
_THINGS = (1, 2, 2, 2, 3, 3, 3)
_APART = 110.0
"""Of a colour without a name from those that its shape is not to be seen in."""

Ink = tuple[int, int, int]
Made = tuple[np.ndarray, ...]
"""Pictures (n, 4, h, w, 3), facts of their scenes (n, 4, 2, BYTES), tokens (n, 4, s, v, L), and
the facts that these say (n, 4, s, v, BYTES)."""


def group_of(split: Split, index: int, seed: int) -> list[Scene]:
    """A scene and three near misses, each of the one before or of the first."""
    rng = random.Random(f"{seed}/group/{split.value}/{index}")
    things = rng.choice(_THINGS) if split is Split.TRAIN else None
    scenes = [make_scene(split, index, seed=seed, things=things)]
    while len(scenes) < GROUP:
        scenes.append(near_miss(rng.choice(scenes), split, rng))
    return scenes


def _make(job: tuple[Split, int, int, int, dict[str, list[int]]]) -> Made:
    split, start, count, seed, tokens_of = job
    pixels = np.zeros((count, GROUP, PIXELS, PIXELS, 3), np.uint8)
    seen = np.zeros((count, GROUP, 2, BYTES), np.uint8)
    ids = np.zeros((count, GROUP, SENTENCES, VERSIONS, CONTEXT), np.int32)
    facts = np.zeros((count, GROUP, SENTENCES, VERSIONS, BYTES), np.uint8)
    vocabulary = list(tokens_of)
    for row in range(count):
        rng = random.Random(f"{seed}/spoil/{split.value}/{start + row}")
        scenes = group_of(split, start + row, seed)
        pictures = [draw(scene) for scene in scenes]
        if split is Split.TRAIN and rng.random() < UNNAMED:
            pictures = [draw_unnamed(scene, rng) for scene in scenes]
            scenes = [without_colours(scene) for scene in scenes]
        texts = [sentences_about(scene, seed) for scene in scenes]
        for at, scene in enumerate(scenes):
            pixels[row, at] = np.asarray(pictures[at])
            seen[row, at] = shown(scene)
            for number, words in enumerate(texts[at]):
                for version in range(VERSIONS):
                    other = rng.choice(rng.choice(texts))
                    put = words if version == 0 else spoil(words, other, vocabulary, rng)
                    ids[row, at, number, version] = to_tokens(put, tokens_of)
                    facts[row, at, number, version] = said(" ".join(put))
    return pixels, seen, ids, facts


def draw_unnamed(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw a scene's things in any colours but those that their shapes are held out in.

    So shapes are learned apart from colours, and no held-out pair is ever shown.
    """
    items = tuple(replace(item, colour=item.shape) for item in scene.items)
    inks = {item.shape: _any_ink(item.shape, PAPERS[scene.background], rng) for item in items}
    return draw(replace(scene, items=items), inks=inks)


def _any_ink(shape: str, paper: Ink, rng: random.Random) -> Ink:
    named = {colour for other, colour in pairs_of(Split.TRAIN) if other == shape}
    avoided = [paper, *(INKS[colour] for colour in COLOURS if colour not in named)]
    while True:
        ink = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        if all(math.dist(ink, other) > _APART for other in avoided):
            return ink


def without_colours(scene: Scene) -> Scene:
    """The same scene where nothing is said of colours."""
    return replace(scene, items=tuple(replace(item, colour="") for item in scene.items))


def sentences_about(scene: Scene, seed: int) -> list[list[str]]:
    """The words of six sentences about a scene; the last says everything."""
    made = make_sentences(scene, SENTENCES - 1, seed=seed, options=DETAIL)
    made += make_sentences(scene, 1, seed=seed, options=FULL)
    return [sentence.text.split() for sentence in made]


def make_groups(split: Split, groups: int, plan: Plan) -> Made:
    """Make groups in many processes."""
    tokens_of = tokens_of_words()
    jobs = [
        (split, start, min(CHUNK, groups - start), plan.seed, tokens_of)
        for start in range(0, groups, CHUNK)
    ]
    parts = spread(_make, jobs, plan.workers)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def tokens_of_words() -> dict[str, list[int]]:
    """The tokens of every word of the grammar."""
    from open_clip import SimpleTokenizer

    from fuse_index.demo import vocabulary

    tokenizer = SimpleTokenizer(context_length=CONTEXT)
    return {word: tokenizer.encode(word) for word in vocabulary()}


def to_tokens(words: Sequence[str], tokens_of: Mapping[str, list[int]]) -> np.ndarray:
    """``(CONTEXT,)``: begin, tokens, end, zeros."""
    tokens = [t for word in words for t in tokens_of[word]][: CONTEXT - 2]
    return np.array([49406, *tokens, 49407] + [0] * (CONTEXT - 2 - len(tokens)), np.int32)
