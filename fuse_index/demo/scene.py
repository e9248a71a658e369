"""Scenes: one to three things on a plain background, drawn by lot from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise

from fuse_index.demo.graph import ABOVE, BACKGROUND, LEFT_OF, Graph, Thing
from fuse_index.demo.lexicon import BACKGROUNDS
from fuse_index.demo.splits import Split, companions_of, pairs_of
from fuse_index.errors import OptionError
from fuse_index.evaluate.graphs import Fact

RADII = {"small": 0.08, "": 0.12, "large": 0.17}
"""Radius by size, in parts of the picture's side; "" is medium, which sentences never mention."""

_SIZE_JITTER = 0.07
_TILT = 8.0
_GAP = 0.03
_EDGE = 0.02
_CELLS = (0.21, 0.5, 0.79)
_CELL_JITTER = 0.04
_CLEAR = 1.6
_THIRDS = (0.36, 0.64)
_MIDDLE = (0.4, 0.6)
_TRIES = 400


@dataclass(frozen=True)
class Item:
    """A thing of a scene.

    Attributes:
        shape: canonical name.
        colour: canonical name.
        size: "small", "large" or "" for medium.
        x: centre, in parts of the side from the left.
        y: centre, in parts of the side from the top.
        radius: of the circle around it, in parts of the side.
        tilt: degrees by which it is turned.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    tilt: float


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn.

    Attributes:
        items: one to three; no shape occurs twice.
        background: canonical name of its colour.
        seed: what drawing jitters colours by.
    """

    items: tuple[Item, ...]
    background: str
    seed: int = 0

    @cached_property
    def graph(self) -> Graph:
        """What a full caption says.

        Shapes, colours and sizes of all things; the place of a thing that is alone; the relations
        of the first thing to the second and of the second to the third.
        """
        alone = len(self.items) == 1
        things = [
            Thing(item.shape, item.colour, item.size, places_of(item) if alone else ())
            for item in self.items
        ]
        pairs = pairwise(self.items)
        return Graph.build(things, [item for pair in pairs for item in relations_of(*pair)])

    @cached_property
    def truths(self) -> frozenset[Fact]:
        """Everything that is true: the graph, all places and relations, and the background."""
        places = {(item.shape, place) for item in self.items for place in places_of(item)}
        pairs = combinations(self.items, 2)
        relations = [relation for pair in pairs for relation in relations_of(*pair)]
        return self.graph.facts().union(places, relations, [(BACKGROUND, self.background)])


def places_of(item: Item) -> tuple[str, ...]:
    """Return where in the picture a thing is, in alphabetical order; nothing where in doubt."""
    low, high = _THIRDS
    places = {
        "bottom": item.y > high,
        "centre": all(_MIDDLE[0] <= value <= _MIDDLE[1] for value in (item.x, item.y)),
        "left": item.x < low,
        "right": item.x > high,
        "top": item.y < low,
    }
    return tuple(name for name, holds in places.items() if holds)


def relations_of(first: Item, second: Item) -> list[tuple[str, str, str]]:
    """Return the canonical relations between two things: one, or two where they are diagonal."""
    across, down = second.x - first.x, second.y - first.y
    found = []
    if abs(across) * _CLEAR > abs(down):
        left, right = (first, second) if across > 0 else (second, first)
        found.append((left.shape, LEFT_OF, right.shape))
    if abs(down) * _CLEAR > abs(across):
        upper, lower = (first, second) if down > 0 else (second, first)
        found.append((upper.shape, ABOVE, lower.shape))
    return found


def make_scene(split: Split, index: int, *, seed: int = 0, things: int | None = None) -> Scene:
    """Return the scene with a number; the same for the same arguments, on any machine.

    Scenes of validation and test hold at least one (shape, colour) pair of that split and none of
    the other's; scenes of training hold pairs of training only.

    Args:
        split: the part of the world it is of.
        index: its number, from 0.
        seed: of the world.
        things: how many things, 1 to 3; None draws the number too.

    Raises:
        OptionError: a number is outside its range.
    """
    if index < 0:
        raise OptionError(f"scene number {index}", expected="at least 0")
    if things is not None and not 1 <= things <= 3:
        raise OptionError(f"things={things}", expected="1, 2 or 3")
    rng = random.Random(f"{seed}/{split.value}/{index}")
    count = things or rng.choices((1, 2, 3), weights=(3, 4, 3))[0]
    while True:
        looks = _draw_looks(split, count, rng)
        items = place_items(looks, rng)
        if items is not None:
            return Scene(items, rng.choice(list(BACKGROUNDS)), rng.getrandbits(32))


Look = tuple[str, str, str]
"""Shape, colour and size."""


def _draw_looks(split: Split, count: int, rng: random.Random) -> list[Look]:
    pairs = [rng.choice(pairs_of(split))]
    while len(pairs) < count:
        pair = rng.choice(companions_of(split))
        if pair[0] not in {shape for shape, _ in pairs}:
            pairs.append(pair)
    rng.shuffle(pairs)
    return [(shape, colour, rng.choice(("small", "", "large"))) for shape, colour in pairs]


def place_items(looks: list[Look], rng: random.Random) -> tuple[Item, ...] | None:
    """Find places for things of given looks; None where there was no room in some hundred tries."""
    radii = [RADII[size] * rng.uniform(1 - _SIZE_JITTER, 1 + _SIZE_JITTER) for *_, size in looks]
    tilts = [rng.uniform(-_TILT, _TILT) for _ in looks]
    for _ in range(_TRIES):
        if len(looks) == 1:
            spots = [tuple(rng.choice(_CELLS) + rng.uniform(-1, 1) * _CELL_JITTER for _ in "xy")]
        else:
            spots = [tuple(rng.uniform(0.08, 0.92) for _ in "xy") for _ in looks]
        items = tuple(
            Item(*look, *(keep_inside(value, radius) for value in spot), radius, tilt)  # type: ignore[call-arg]
            for look, spot, radius, tilt in zip(looks, spots, radii, tilts, strict=True)
        )
        if fits(items):
            return items
    return None


def keep_inside(value: float, radius: float) -> float:
    """Move a coordinate so that a thing of that radius is wholly in the picture."""
    margin = radius + _EDGE
    return min(max(value, margin), 1 - margin)


def fits(items: tuple[Item, ...]) -> bool:
    """Whether no thing touches another and those that sentences relate stand clearly."""
    for first, second in combinations(items, 2):
        apart = first.radius + second.radius + _GAP
        if (first.x - second.x) ** 2 + (first.y - second.y) ** 2 < apart**2:
            return False
    return all(len(relations_of(a, b)) == 1 for a, b in pairwise(items))  # not diagonal
