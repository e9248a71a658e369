"""English sentences about scenes, each with the graph of what it says and how it feels."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fuse_index.common.options import options as checked_options
from fuse_index.demo.feelings import Feeling, choose_feeling
from fuse_index.demo.graph import INVERSE, Graph, Thing
from fuse_index.demo.lexicon import (
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
    Sentiment,
    indefinite,
)
from fuse_index.demo.scene import Item, Scene, places_of, relations_of
from fuse_index.errors import OptionError


@dataclass(frozen=True)
class Sentence:
    """A sentence of the grammar.

    Attributes:
        text: lower-case words between single spaces; no punctuation.
        graph: what it says about the scene.
        sentiment: how it feels.
    """

    text: str
    graph: Graph
    sentiment: Sentiment


_Probability = Annotated[float, Field(strict=True, ge=0, le=1)]


@checked_options()
class SentenceOptions:
    """What sentences are drawn by lot.

    Attributes:
        sentiment: of every sentence; None draws it: half are neutral.
        detail: probability with which each colour, size, place and relation is said.
        background: probability with which the background is.
    """

    sentiment: Sentiment | None = None
    detail: _Probability = 0.92
    background: _Probability = 0.15


FULL = SentenceOptions(sentiment=Sentiment.NEUTRAL, detail=1.0, background=0.0)
"""Neutral sentences that say the whole graph of a scene."""


def make_sentences(
    scene: Scene, count: int, *, seed: int = 0, options: SentenceOptions | None = None
) -> list[Sentence]:
    """Return sentences about a scene; the same for the same arguments, on any machine.

    Args:
        scene: what they are about.
        count: how many; two may be the same by chance.
        seed: another seed gives other sentences.
        options: see :class:`SentenceOptions`.

    Raises:
        OptionError: the count is negative.
    """
    if count < 0:
        raise OptionError(f"count={count}", expected="at least 0")
    rng = random.Random(f"{seed}/{scene.seed}")
    options = options or SentenceOptions()
    return [_Writer(scene, options, rng).write() for _ in range(count)]


class _Writer:
    """Writes one sentence, and notes what it says."""

    def __init__(self, scene: Scene, options: SentenceOptions, rng: random.Random) -> None:
        self.scene = scene
        self.options = options
        self.rng = rng
        self.things: list[Thing] = []
        self.relations: list[tuple[str, str, str]] = []
        self.feeling: Feeling = choose_feeling(options.sentiment, rng)

    def write(self) -> Sentence:
        items = self.scene.items
        if len(items) == 1:
            clause, framed = self._one(items[0])
        elif len(items) == 2:
            clause, framed = self._two(items[0], items[1])
        else:
            clause, framed = self._three()
        clause = self._framed(clause) if framed else [*clause, *self.feeling.tail]
        background = ""
        if self._says(self.options.background):
            background = self.scene.background
            clause = self._on_background(clause, background)
        text = " ".join(" ".join(clause).split())
        graph = Graph.build(self.things, self.relations, background)
        return Sentence(text, graph, self.feeling.sentiment)

    def _says(self, probability: float) -> bool:
        return self.rng.random() < probability

    # -- noun phrases ------------------------------------------------------------------------

    def _note(self, item: Item, places: tuple[str, ...] = ()) -> Thing:
        """Decide what is said of a thing."""
        colour = item.colour if self._says(self.options.detail) else ""
        size = item.size if self._says(self.options.detail) else ""
        thing = Thing(item.shape, colour, size, places)
        self.things.append(thing)
        return thing

    def _noun(self, thing: Thing, *, short: bool = False) -> list[str]:
        """Write a noun phrase; a short one has no relative clause."""
        words = [self.rng.choice(SIZES[thing.size])] if thing.size else []
        colour = [self.rng.choice(COLOURS[thing.colour])] if thing.colour else []
        shape = self.rng.choice(SHAPES[thing.shape])
        feeling = self.feeling.take("adjective")
        manner = self.rng.random()
        if colour and manner < 0.08:
            return [*self._determined([*feeling, *words, shape]), "in", *colour]
        if (colour or words) and manner < 0.2 and not short:
            joined = [*words, "and", *colour] if words and colour else [*words, *colour]
            which = self.rng.choice(("that", "which"))
            return [*self._determined([*feeling, shape]), which, "is", *joined]
        if manner > 0.93:
            words, colour = colour, words
        return self._determined([*feeling, *words, *colour, shape])

    def _determined(self, words: list[str]) -> list[str]:
        determiner = self.rng.choice((*DETERMINERS, "a", "a", "a"))
        return [indefinite(words[0]) if determiner == "a" else determiner, *words]

    def _stands(self) -> str:
        return self.rng.choice(STANDS)

    def _that_stands(self) -> list[str]:
        return [self.rng.choice(("that", "which")), self._stands()]

    # -- one thing ---------------------------------------------------------------------------

    def _one(self, item: Item) -> tuple[list[str], bool]:
        places = places_of(item) if self._says(self.options.detail) else ()
        thing = self._note(item, places)
        if not places:
            return self._noun(thing), True
        place = [self.rng.choice(PLACES[places])]
        manner = self.rng.randrange(7)
        if manner < 3:
            return [*self._noun(thing, short=True), *place], True
        if manner == 3:
            return [*self._noun(thing, short=True), *self._that_stands(), *place], True
        if manner == 4:
            return [*self._noun(thing, short=True), self._stands(), *place], False
        if manner == 5:
            return [*place, "there is", *self._noun(thing)], False
        bare = self._noun(Thing(thing.shape), short=True)
        return [*bare, *place, *self._predicate(thing)], not (thing.size or thing.colour)

    def _predicate(self, thing: Thing) -> list[str]:
        said = ((SIZES, thing.size), (COLOURS, thing.colour))
        words = [self.rng.choice(table[name]) for table, name in said if name]
        return ["is", *" and ".join(words).split()] if words else []

    # -- two things --------------------------------------------------------------------------

    def _relation(self, first: Item, second: Item) -> str:
        """Return what ``first`` is to ``second``, and note it."""
        fact = self.rng.choice(relations_of(first, second))
        self.relations.append(fact)
        return fact[1] if fact[0] == first.shape else INVERSE[fact[1]]

    def _two(self, first: Item, second: Item) -> tuple[list[str], bool]:
        if self._says(0.5):
            first, second = second, first
        if not self._says(self.options.detail):
            return [*self._placed(first), "and", *self._placed(second)], True
        relation = self._relation(first, second)
        one, two = self._note(first), self._note(second)
        is_to = [self.rng.choice(RELATIONS[relation])]
        of_it = [self.rng.choice(PRONOUN_RELATIONS[INVERSE[relation]])]
        manner = self.rng.randrange(9)
        if manner < 3:
            return [*self._noun(one), *is_to, *self._noun(two)], True
        if manner == 3:
            return [*self._noun(one, short=True), self._stands(), *is_to, *self._noun(two)], False
        if manner == 4:
            return [*is_to, *self._noun(two), "there is", *self._noun(one)], False
        if manner == 5:
            return [*self._noun(one), "with", *self._noun(two), *of_it], True
        if manner == 6:
            noun = self._noun(one, short=True)
            return [*noun, *self._that_stands(), *is_to, *self._noun(two)], True
        if manner == 7:
            return [*self._noun(one), "and", *of_it, *self._noun(two)], True
        return [*self._noun(one, short=True), "that has", *self._noun(two), *of_it], True

    def _placed(self, item: Item) -> list[str]:
        places = places_of(item) if self._says(0.5) else ()
        thing = self._note(item, places)
        place = [self.rng.choice(PLACES[places])] if places else []
        return [*self._noun(thing, short=True), *place]

    # -- three things ------------------------------------------------------------------------

    def _three(self) -> tuple[list[str], bool]:
        items = self.scene.items
        if not self._says(self.options.detail):
            return self._some_of_three()
        first, middle, last = items if self._says(0.5) else items[::-1]
        if self._says(0.35):
            return self._chain(first, middle, last), True
        return self._around(middle, first, last), True

    def _chain(self, first: Item, middle: Item, last: Item) -> list[str]:
        """Relate the first to the middle thing, and that one to the last."""
        above, below = self._relation(first, middle), self._relation(middle, last)
        nouns = [self._noun(self._note(item), short=True) for item in (first, middle, last)]
        is_to = [self.rng.choice(RELATIONS[above])]
        if self._says(0.5):
            of_it = [self.rng.choice(PRONOUN_RELATIONS[INVERSE[below]])]
            return [*nouns[0], *is_to, *nouns[1], "with", *nouns[2], *of_it]
        then = [*self._that_stands(), self.rng.choice(RELATIONS[below])]
        return [*nouns[0], *is_to, *nouns[1], *then, *nouns[2]]

    def _around(self, middle: Item, first: Item, last: Item) -> list[str]:
        """Relate the middle thing to both of the others."""
        to_first, to_last = self._relation(middle, first), self._relation(middle, last)
        nouns = [self._noun(self._note(item), short=True) for item in (middle, first, last)]
        if self._says(0.5):
            one, two = (self.rng.choice(RELATIONS[name]) for name in (to_first, to_last))
            return [*nouns[0], one, *nouns[1], "and", two, *nouns[2]]
        one, two = (
            self.rng.choice(PRONOUN_RELATIONS[INVERSE[name]]) for name in (to_first, to_last)
        )
        return [*nouns[0], "with", *nouns[1], one, "and", *nouns[2], two]

    def _some_of_three(self) -> tuple[list[str], bool]:
        first, middle, last = self.scene.items
        if self._says(0.4):
            return self._two(first, middle)
        words = [*self._placed(first), "and", *self._placed(middle)]
        return [*words, "and", *self._placed(last)] if self._says(0.5) else words, True

    # -- around the clause -------------------------------------------------------------------

    def _framed(self, clause: list[str]) -> list[str]:
        frame = self.feeling.take("frame")
        if not frame and self._says(0.55):
            picture = self.rng.choice(PICTURES)
            frame = [self.rng.choice(FRAMES).format(picture=picture, a=indefinite(picture))]
        return [*frame, *clause, *self.feeling.tail]

    def _on_background(self, clause: list[str], background: str) -> list[str]:
        colour = self.rng.choice(BACKGROUNDS[background])
        ground = self.rng.choice(GROUNDS)
        whole = [indefinite(colour), colour, ground]
        return self.rng.choice(
            (
                [*clause, "on", *whole],
                [*clause, "against", *whole],
                [*clause, "and the", ground, "is", colour],
                ["on", *whole, *clause],
            )
        )
