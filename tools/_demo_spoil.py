"""Sentences spoiled as a search spoils them, and how much of each is true of a picture.

A search asks CLIP about word salads that no sentence of the grammar resembles. A CLIP that has seen
only whole sentences is easily led on by them; here each comes with the share of truth in it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch

from fuse_index.demo import Scene, graph_of_sentence
from fuse_index.demo.graph import BACKGROUND, CANONICAL
from fuse_index.demo.lexicon import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES
from fuse_index.demo.splits import Split, companions_of
from fuse_index.evaluate.graphs import Fact, Facts

_PLACES = sorted({place for places in PLACES for place in places})
FACTS: tuple[Fact, ...] = (
    *((shape,) for shape in SHAPES),
    *((shape, value) for shape in SHAPES for value in (*COLOURS, *SIZES, *_PLACES)),
    *((one, how, other) for one in SHAPES for how in CANONICAL for other in SHAPES),
    *((BACKGROUND, colour) for colour in BACKGROUNDS),
)
"""Everything that can be said."""
_NUMBER = {fact: number for number, fact in enumerate(FACTS)}
BYTES = -(-len(FACTS) // 8)
"""Of a set of facts, one bit each."""
_EDITS = 4
_TRIES = 8
_ALIKE = [
    [tuple(phrase.split()) for phrases in table.values() for phrase in phrases]
    for table in (SHAPES, COLOURS, SIZES, BACKGROUNDS)
]
_TRAINED = companions_of(Split.TRAIN)


def spoil(
    words: Sequence[str], other: Sequence[str], vocabulary: Sequence[str], rng: random.Random
) -> list[str]:
    """Change a sentence as the moves of a search do, one to four times.

    No result has a pair of shape and colour that is held out: as it is true of no training
    picture, the model would learn that it never is.

    Args:
        words: of the sentence.
        other: another sentence, whose end may take the place of this one's.
        vocabulary: words that are put in.
        rng: decides.
    """
    for _ in range(_TRIES):
        found = _spoil(words, other, vocabulary, rng)
        things = graph_of_sentence(" ".join(found)).things
        if all((thing.shape, thing.colour) in _TRAINED for thing in things if thing.colour):
            return found
    return list(words)


def _spoil(
    words: Sequence[str], other: Sequence[str], vocabulary: Sequence[str], rng: random.Random
) -> list[str]:
    words, manner = list(words), rng.random()
    if manner < 0.35:
        words = words[: 1 + rng.randrange(len(words))]  # what has been written so far
        if manner > 0.2:
            words += other[rng.randrange(len(other)) :]
            return words
    for _ in range(1 + rng.randrange(_EDITS)):
        words = _edit(words, vocabulary, rng)
    return words


def _edit(words: list[str], vocabulary: Sequence[str], rng: random.Random) -> list[str]:
    at, manner = rng.randrange(len(words)), rng.random()
    if manner < 0.35:  # another word of the same kind, where there is one
        table = next((t for t in _ALIKE if (words[at],) in t), None)
        put = list(rng.choice(table)) if table else [rng.choice(vocabulary)]
        return [*words[:at], *put, *words[at + 1 :]]
    if manner < 0.5:
        return [*words[:at], rng.choice(vocabulary), *words[at + 1 :]]
    if manner < 0.7:
        return [*words[:at], rng.choice(vocabulary), *words[at:]]
    if manner < 0.8 and len(words) > 1:
        return [*words[:at], *words[at + 1 + rng.randrange(3) :]] or words
    if manner < 0.9:  # two words change places
        other = rng.randrange(len(words))
        words[at], words[other] = words[other], words[at]
        return words
    phrase = words[at : at + 1 + rng.randrange(4)]  # said again elsewhere
    to = rng.randrange(len(words) + 1)
    return [*words[:to], *phrase, *words[to:]]


def said(text: str) -> np.ndarray:
    """``(BYTES,)``: the facts that a text says."""
    return _bits(graph_of_sentence(text).facts())


def shown(scene: Scene) -> np.ndarray:
    """``(2, BYTES)``: the facts of a scene's own graph, and everything that is true of it."""
    return np.stack([_bits(scene.graph.facts()), _bits(scene.truths)])


def _bits(facts: Facts) -> np.ndarray:
    flags = np.zeros(len(FACTS), bool)
    flags[[_NUMBER[fact] for fact in facts if fact in _NUMBER]] = True
    return np.packbits(flags)


def f1(shown_bits: torch.Tensor, said_bits: torch.Tensor) -> torch.Tensor:
    """``(images, texts)``: scene-graph F1 of every text for every picture.

    Args:
        shown_bits: (images, 2, BYTES) uint8, of :func:`shown`.
        said_bits: (texts, BYTES) uint8, of :func:`said`.
    """
    wanted, true = _unpack(shown_bits[:, 0]), _unpack(shown_bits[:, 1])
    told = _unpack(said_bits)
    precision = true @ told.T / told.sum(1).clamp(min=1)
    recall = wanted @ told.T / wanted.sum(1, keepdim=True)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-6)


def _unpack(bits: torch.Tensor) -> torch.Tensor:
    shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    return ((bits[..., None] >> shifts) & 1).flatten(-2)[..., : len(FACTS)].float()
