"""Near misses: scenes that differ from another in one thing."""

from __future__ import annotations

import random
from dataclasses import replace

from fuse_index.demo.lexicon import COLOURS, SHAPES
from fuse_index.demo.scene import RADII, Item, Scene, fits, keep_inside, place_items
from fuse_index.demo.splits import Split, companions_of

_TRIES = 50


def near_miss(scene: Scene, split: Split, rng: random.Random) -> Scene:
    """Change one colour, size, shape or place, or let two things change places.

    Args:
        scene: what to start from; it stays as it is.
        split: the new scene's pairs of shape and colour are from here or from training.
        rng: decides.

    Returns:
        A scene with another graph; where none was found in some tries, the same things are put
        elsewhere.
    """
    changes = (_recolour, _resize, _reshape, _move if len(scene.items) == 1 else _swap)
    for _ in range(_TRIES):
        items = rng.choice(changes)(scene.items, rng)
        changed = replace(scene, items=items, seed=rng.getrandbits(32))
        allowed = all((i.shape, i.colour) in companions_of(split) for i in items)
        if allowed and fits(items) and changed.graph != scene.graph:
            return changed
    moved = place_items([(i.shape, i.colour, i.size) for i in scene.items], rng)
    return replace(scene, items=moved or scene.items, seed=rng.getrandbits(32))


def _with(items: tuple[Item, ...], at: int, item: Item) -> tuple[Item, ...]:
    return (*items[:at], item, *items[at + 1 :])


def _recolour(items: tuple[Item, ...], rng: random.Random) -> tuple[Item, ...]:
    at = rng.randrange(len(items))
    return _with(items, at, replace(items[at], colour=rng.choice(list(COLOURS))))


def _reshape(items: tuple[Item, ...], rng: random.Random) -> tuple[Item, ...]:
    at = rng.randrange(len(items))
    free = [shape for shape in SHAPES if shape not in {item.shape for item in items}]
    return _with(items, at, replace(items[at], shape=rng.choice(free)))


def _resize(items: tuple[Item, ...], rng: random.Random) -> tuple[Item, ...]:
    at = rng.randrange(len(items))
    old, size = items[at], rng.choice(list(RADII))
    radius = old.radius * RADII[size] / RADII[old.size]
    x, y = keep_inside(old.x, radius), keep_inside(old.y, radius)
    return _with(items, at, replace(old, size=size, radius=radius, x=x, y=y))


def _move(items: tuple[Item, ...], rng: random.Random) -> tuple[Item, ...]:
    return place_items([(i.shape, i.colour, i.size) for i in items], rng) or items


def _swap(items: tuple[Item, ...], rng: random.Random) -> tuple[Item, ...]:
    """Let two things change places."""
    one, two = rng.sample(range(len(items)), 2)
    moved = list(items)
    for at, place in ((one, items[two]), (two, items[one])):
        x, y = (keep_inside(value, items[at].radius) for value in (place.x, place.y))
        moved[at] = replace(items[at], x=x, y=y)
    return tuple(moved)
