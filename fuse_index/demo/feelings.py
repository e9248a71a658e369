"""How a sentence says that it likes or dislikes what it describes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from fuse_index.demo.lexicon import ADJECTIVES, ADVERBS, PICTURES, VERBS, Sentiment, indefinite


@dataclass
class Feeling:
    """Words of one sentiment, each of which goes to one place of a sentence.

    Whatever is left when the clause is written is said after it, so that the sentiment is always
    there.

    Attributes:
        sentiment: what is felt.
        adjective: words before a noun, its adverb included.
        frame: words before a clause that has no verb.
        tail: words after the clause, used where nothing else was.
    """

    sentiment: Sentiment
    adjective: list[str] = field(default_factory=list)
    frame: list[str] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)

    def take(self, place: Literal["adjective", "frame"]) -> list[str]:
        """Return the words of a place for the first that asks, then nothing."""
        words: list[str] = getattr(self, place)
        setattr(self, place, [])
        if words:
            self.tail = []
        return words


def choose_feeling(sentiment: Sentiment | None, rng: random.Random) -> Feeling:
    """Draw a sentiment where none is given, and the way to say it."""
    if sentiment is None:
        sentiment = rng.choice(
            (Sentiment.NEUTRAL, Sentiment.NEUTRAL, Sentiment.POSITIVE, Sentiment.NEGATIVE)
        )
    if sentiment is Sentiment.NEUTRAL:
        return Feeling(sentiment)
    feeling = Feeling(sentiment, tail=_tail(sentiment, rng))
    manner = rng.random()
    if manner < 0.4:
        feeling.adjective = _adjective(sentiment, rng)
    elif manner < 0.85:
        feeling.frame = _frame(sentiment, rng)
    return feeling


def _adjective(sentiment: Sentiment, rng: random.Random) -> list[str]:
    adverb = [rng.choice(ADVERBS)] if rng.random() < 0.25 else []
    return [*adverb, rng.choice(ADJECTIVES[sentiment])]


def _frame(sentiment: Sentiment, rng: random.Random) -> list[str]:
    manner = rng.random()
    if manner < 0.4:
        adverb = ["really"] if rng.random() < 0.2 else []
        return ["i", *adverb, rng.choice(VERBS[sentiment])]
    if manner < 0.6:
        return ["i do not", rng.choice(VERBS[sentiment.opposite])]
    words = [*_adjective(sentiment, rng), rng.choice(PICTURES), "of"]
    article = [indefinite(words[0])]
    if manner < 0.75:
        return ["what", *article, *words]
    return [*article, *words] if manner < 0.9 else ["this is", *article, *words]


def _tail(sentiment: Sentiment, rng: random.Random) -> list[str]:
    verb = rng.choice(("is", "looks"))
    manner = rng.random()
    if manner < 0.6:
        return ["and it", verb, *_adjective(sentiment, rng)]
    if manner < 0.8:
        return ["and it", verb, "not", rng.choice(ADJECTIVES[sentiment.opposite])]
    return ["how", rng.choice(ADJECTIVES[sentiment])]
