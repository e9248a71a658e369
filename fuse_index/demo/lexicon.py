"""The words of the demo's grammar and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from fuse_index.demo.graph import ABOVE, BELOW, LEFT_OF, RIGHT_OF

SHAPES: Mapping[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus"),
    "diamond": ("diamond", "rhombus"),
    "moon": ("moon", "crescent"),
    "arrow": ("arrow", "pointer"),
}
"""Canonical name -> its synonyms; so are the tables below."""

COLOURS: Mapping[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "brown": ("brown", "chocolate"),
    "turquoise": ("turquoise", "aqua"),
    "grey": ("grey", "gray"),
}
SIZES: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
}
BACKGROUNDS: Mapping[str, tuple[str, ...]] = {
    "white": ("white", "snowy"),
    "black": ("black", "dark"),
    "beige": ("beige", "sandy"),
    "navy": ("navy", "midnight"),
}
"""No word of these is a colour of things, so that what a colour word is about is never in doubt."""

GROUNDS = ("background", "backdrop", "canvas")

RELATIONS: Mapping[str, tuple[str, ...]] = {
    LEFT_OF: ("left of", "to the left of", "on the left side of"),
    RIGHT_OF: ("right of", "to the right of", "on the right side of"),
    ABOVE: ("above", "over", "higher than"),
    BELOW: ("below", "under", "beneath", "lower than"),
}
PRONOUN_RELATIONS: Mapping[str, tuple[str, ...]] = {
    LEFT_OF: ("to its left", "on its left", "left of it"),
    RIGHT_OF: ("to its right", "on its right", "right of it"),
    ABOVE: ("above it", "over it"),
    BELOW: ("below it", "under it", "beneath it"),
}
PLACES: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("top",): ("at the top", "near the top", "in the upper part"),
    ("bottom",): ("at the bottom", "near the bottom", "in the lower part"),
    ("left",): ("on the left", "on the left side", "near the left edge"),
    ("right",): ("on the right", "on the right side", "near the right edge"),
    ("centre",): ("in the middle", "in the centre", "in the center"),
    ("left", "top"): ("in the top left corner", "at the upper left"),
    ("right", "top"): ("in the top right corner", "at the upper right"),
    ("bottom", "left"): ("in the bottom left corner", "at the lower left"),
    ("bottom", "right"): ("in the bottom right corner", "at the lower right"),
}

DETERMINERS = ("a", "the", "one")
"""``a`` becomes ``an`` before a vowel."""

FRAMES = (
    "there is",
    "here is",
    "the {picture} shows",
    "this {picture} shows",
    "the {picture} contains",
    "this is {a} {picture} of",
    "{a} {picture} of",
    "we see",
    "you can see",
    "look at",
)
PICTURES = ("picture", "drawing", "image")
STANDS = ("is", "sits", "lies", "stands")


class Sentiment(str, Enum):
    """What a sentence feels about what it describes."""

    NEGATIVE = "negative"
    NEUTRAL = "neutral"
    POSITIVE = "positive"

    @property
    def opposite(self) -> Sentiment:
        """Positive for negative and the other way round."""
        if self is Sentiment.NEUTRAL:
            return self
        return Sentiment.NEGATIVE if self is Sentiment.POSITIVE else Sentiment.POSITIVE


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES: Mapping[Sentiment, tuple[str, ...]] = {
    Sentiment.POSITIVE: _words(
        "lovely beautiful pretty charming delightful wonderful cheerful gorgeous splendid nice "
        "cute adorable"
    ),
    Sentiment.NEGATIVE: _words(
        "ugly awful horrible nasty dreadful hideous terrible dull boring gloomy unpleasant dreary"
    ),
}
VERBS: Mapping[Sentiment, tuple[str, ...]] = {
    Sentiment.POSITIVE: ("like", "love", "enjoy", "adore"),
    Sentiment.NEGATIVE: ("hate", "dislike", "detest", "loathe"),
}
ADVERBS = ("very", "really", "so", "quite")


def indefinite(word: str) -> str:
    """Return ``a`` or ``an``, whichever stands before a word of the grammar."""
    return "an" if word[0] in "aeiou" else "a"
