"""Reading a sentence back: text -> graph, the inverse of the grammar, tolerant of other words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from fuse_index.demo.graph import Graph, Thing
from fuse_index.demo.lexicon import (
    BACKGROUNDS,
    COLOURS,
    DETERMINERS,
    GROUNDS,
    PLACES,
    PRONOUN_RELATIONS,
    RELATIONS,
    SHAPES,
    SIZES,
)


class _Mark(str, Enum):
    """What a phrase does in a sentence."""

    SHAPE = "shape"
    COLOUR = "colour"
    SIZE = "size"
    PLACE = "place"
    RELATION = "relation"
    PRONOUN_RELATION = "pronoun relation"
    PAPER = "paper"
    GROUND = "ground"
    DETERMINER = "determiner"
    WITH = "with"
    AND = "and"
    OTHER = "other"


_MODIFIERS = (_Mark.COLOUR, _Mark.SIZE)
_INSIDE_NOUN = (*_MODIFIERS, _Mark.AND, _Mark.OTHER)
_BOUNDARIES = ("that", "which", "is", "sits", "lies", "stands", "there", "in", "on")


class _Piece(NamedTuple):
    """A phrase of a sentence with what it means."""

    mark: _Mark
    value: str = ""


_TABLES: dict[_Mark, Mapping[str, Sequence[str]]] = {
    _Mark.SHAPE: SHAPES,
    _Mark.COLOUR: COLOURS,
    _Mark.SIZE: SIZES,
    _Mark.PAPER: BACKGROUNDS,
    _Mark.RELATION: RELATIONS,
    _Mark.PRONOUN_RELATION: PRONOUN_RELATIONS,
    _Mark.PLACE: {" ".join(places): phrases for places, phrases in PLACES.items()},
    _Mark.GROUND: {"": GROUNDS},
    _Mark.DETERMINER: {"": (*DETERMINERS, "an")},
    _Mark.WITH: {"": ("with", "has")},
    _Mark.AND: {"": ("and",)},
}
_PHRASES = {
    tuple(phrase.split()): _Piece(mark, value)
    for mark, table in _TABLES.items()
    for value, phrases in table.items()
    for phrase in phrases
}
"""All phrases that mean something."""
_LONGEST = max(map(len, _PHRASES))


def graph_of_sentence(text: str) -> Graph:
    """Read the graph off a sentence of the grammar.

    It is exact for every sentence that the grammar makes. Elsewhere it does what it can: words it
    does not know are passed over, modifiers belong to the next shape before the noun phrase ends
    and otherwise to the last, and relations without two things are dropped. Case and punctuation
    do not matter.

    Args:
        text: any text.

    Returns:
        What it says; an empty graph where it names no shape.
    """
    reader = _Reader(_pieces(text))
    reader.read()
    return reader.graph()


def _pieces(text: str) -> list[_Piece]:
    """Split a text into phrases, the longest that fits first."""
    cleaned = "".join(c if c.isalnum() else " " for c in text.lower())
    words = cleaned.split()
    pieces, start = [], 0
    while start < len(words):
        for length in range(min(_LONGEST, len(words) - start), 0, -1):
            piece = _PHRASES.get(tuple(words[start : start + length]))
            if piece is not None:
                pieces.append(piece)
                start += length
                break
        else:
            pieces.append(_Piece(_Mark.OTHER, words[start]))
            start += 1
    return pieces


@dataclass
class _Draft:
    """A thing while it is being read."""

    shape: str
    colour: str = ""
    size: str = ""
    places: set[str] = field(default_factory=set)

    def set_modifier(self, piece: _Piece) -> None:
        setattr(self, piece.mark.value, piece.value)


class _Reader:
    """Goes over the pieces once, from left to right."""

    def __init__(self, pieces: list[_Piece]) -> None:
        self.pieces = pieces
        self.drafts: list[_Draft] = []
        self.relations: list[tuple[str, str, str]] = []
        self.background = ""
        self._modifiers: list[_Piece] = []  # of the next shape
        self._places: set[str] = set()  # of the next shape, where a sentence begins with them
        self._anchor: _Draft | None = None  # what "it" is, after "with" or "has"
        # relation whose object is the next shape: its subject, or None where that comes after
        self._open: tuple[str, _Draft | None] | None = None
        # relation whose subject is the next shape
        self._fronted: tuple[str, _Draft] | None = None
        self._paper = ""
        self._wants_paper = False

    def read(self) -> None:
        """Read all pieces."""
        for at, piece in enumerate(self.pieces):
            if piece.mark is _Mark.SHAPE:
                self._shape(piece.value)
            elif piece.mark in _MODIFIERS:
                self._modifier(piece, at)
            elif piece.mark is _Mark.PLACE:
                places = piece.value.split()
                (self.drafts[-1].places if self.drafts else self._places).update(places)
            elif piece.mark is _Mark.RELATION:
                self._relation(piece.value, at)
            elif piece.mark is _Mark.PRONOUN_RELATION:
                self._pronoun_relation(piece.value)
            elif piece.mark is _Mark.WITH and self.drafts:
                self._anchor = self.drafts[-1]
            elif piece.mark is _Mark.PAPER:
                self._set_paper(piece.value)
            elif piece.mark is _Mark.GROUND:
                self._ground()

    def graph(self) -> Graph:
        """What has been read."""
        things = [
            Thing(draft.shape, draft.colour, draft.size, tuple(sorted(draft.places)))
            for draft in self.drafts
        ]
        return Graph.build(things, self.relations, self.background)

    def _shape(self, shape: str) -> None:
        draft = _Draft(shape, places=self._places)
        for piece in self._modifiers:
            draft.set_modifier(piece)
        self._modifiers, self._places = [], set()
        self.drafts.append(draft)
        if self._fronted is not None:
            relation, other = self._fronted
            self.relations.append((shape, relation, other.shape))
            self._fronted = None
        if self._open is not None:
            relation, subject = self._open
            if subject is None:
                self._fronted = (relation, draft)
            else:
                self.relations.append((subject.shape, relation, shape))
            self._open = None

    def _modifier(self, piece: _Piece, at: int) -> None:
        if self._before_noun(at):
            self._modifiers.append(piece)
        elif self.drafts:
            self.drafts[-1].set_modifier(piece)

    def _before_noun(self, at: int) -> bool:
        """Whether a shape comes before the noun phrase ends."""
        for piece in self.pieces[at + 1 :]:
            if piece.mark is _Mark.SHAPE:
                return True
            if piece.mark not in _INSIDE_NOUN or piece.value in _BOUNDARIES:
                return False
        return False

    def _relation(self, relation: str, at: int) -> None:
        if not self.drafts:
            self._open = (relation, None)
            return
        after_and = at > 0 and self.pieces[at - 1].mark is _Mark.AND
        self._open = (relation, self.drafts[0] if after_and else self.drafts[-1])

    def _pronoun_relation(self, relation: str) -> None:
        if not self.drafts:
            return
        last = self.drafts[-1]
        if self._anchor is not None and last is not self._anchor:
            self.relations.append((last.shape, relation, self._anchor.shape))
        else:
            self._fronted = (relation, last)

    def _set_paper(self, colour: str) -> None:
        if self._wants_paper:
            self.background, self._wants_paper = colour, False
        else:
            self._paper = colour

    def _ground(self) -> None:
        if self._paper:
            self.background, self._paper = self._paper, ""
        else:
            self._wants_paper = True
