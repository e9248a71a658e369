"""Scene graphs: things with attributes, relations between them, and how well two graphs agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fuse_index.evaluate.graphs import Agreement, Fact, fact_agreement

LEFT_OF = "left of"
RIGHT_OF = "right of"
ABOVE = "above"
BELOW = "below"
INVERSE = {LEFT_OF: RIGHT_OF, RIGHT_OF: LEFT_OF, ABOVE: BELOW, BELOW: ABOVE}
CANONICAL = (LEFT_OF, ABOVE)
"""Graphs hold these two relations only; the other two are the same facts read backwards."""

BACKGROUND = "background"


@dataclass(frozen=True, order=True)
class Thing:
    """An object of a graph; what is not said is empty.

    Attributes:
        shape: canonical name of the shape.
        colour: canonical name of the colour, or "".
        size: "small", "large", or "" (medium, or not said).
        places: where in the picture, in alphabetical order: "top", "bottom", "left", "right" or
            "centre".
    """

    shape: str
    colour: str = ""
    size: str = ""
    places: tuple[str, ...] = ()

    def facts(self) -> set[Fact]:
        """The thing as facts: that it is there, and one for every attribute."""
        attributes = [value for value in (self.colour, self.size, *self.places) if value]
        return {(self.shape,), *((self.shape, value) for value in attributes)}


@dataclass(frozen=True)
class Graph:
    """What a sentence says, or what a scene is.

    Relations name shapes, as in SPICE (Anderson et al. 2016); scenes of this package never show
    one shape twice, so a shape is an object.

    Attributes:
        things: the objects, sorted.
        relations: ``(shape, "left of" or "above", shape)``.
        background: canonical name of the background's colour, or "".
    """

    things: tuple[Thing, ...] = ()
    relations: frozenset[tuple[str, str, str]] = field(default_factory=frozenset)
    background: str = ""

    @classmethod
    def build(
        cls,
        things: Iterable[Thing],
        relations: Iterable[tuple[str, str, str]] = (),
        background: str = "",
    ) -> Graph:
        """Sort the things and turn every relation into one of the canonical two."""
        canonical = frozenset(
            (one, how, other) if how in CANONICAL else (other, INVERSE[how], one)
            for one, how, other in relations
        )
        return cls(tuple(sorted(things)), canonical, background)

    def facts(self) -> frozenset[Fact]:
        """All facts of the graph: objects, attributes, relations and the background."""
        background = {(BACKGROUND, self.background)} if self.background else set()
        return self.relations.union(background, *(thing.facts() for thing in self.things))


def agreement(said: Graph, graph: Graph, truths: frozenset[Fact]) -> Agreement:
    """Compare what a caption says with a scene, fact by fact.

    It is SPICE's F-score (Anderson et al. 2016, equations 3 to 5) on exact tuples, but precision is
    taken over everything that is true: naming the background or a third relation is no mistake,
    and leaving it out is none either.

    Args:
        said: the caption's graph.
        graph: the scene's own graph, what a full caption says.
        truths: everything that is true of the scene, ``graph`` included.
    """
    return fact_agreement(said.facts(), graph.facts(), truths)
