"""Drawing scenes: polygons and discs, anti-aliased by drawing them large and averaging."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from fuse_index.demo.scene import Item, Scene

PIXELS = 96
"""Side of the pictures that the demo's CLIP looks at."""

Colour = tuple[int, int, int]

INKS = {
    "red": (220, 30, 35),
    "orange": (250, 135, 15),
    "yellow": (245, 220, 40),
    "green": (30, 150, 55),
    "blue": (40, 85, 225),
    "purple": (130, 45, 165),
    "pink": (245, 130, 185),
    "brown": (125, 75, 35),
    "turquoise": (50, 205, 205),
    "grey": (130, 130, 135),
}
PAPERS = {
    "white": (250, 250, 250),
    "black": (12, 12, 12),
    "beige": (232, 215, 180),
    "navy": (20, 25, 80),
}
_OVERSAMPLING = 4
_INK_JITTER = 12
_PAPER_JITTER = 5

Point = tuple[float, float]

_DISCS: dict[str, tuple[tuple[Point, float, bool], ...]] = {
    "circle": (((0, 0), 0.9, True),),
    "ring": (((0, 0), 0.95, True), ((0, 0), 0.55, False)),
    "moon": (((0, 0), 0.95, True), ((0.42, -0.08), 0.75, False)),
}
"""Centre and radius, in parts of the item's radius, and whether it is filled with the colour."""


def draw(scene: Scene, pixels: int = PIXELS, inks: Mapping[str, Colour] = INKS) -> Image:
    """Draw a scene as an RGB picture; the same scene gives the same picture.

    Args:
        scene: what to draw.
        pixels: side of the picture.
        inks: red, green and blue of the things' colours by name.

    Raises:
        OptionError: the side is below 8 or above 4096 pixels.
    """
    import PIL.Image  # noqa: PLC0415
    import PIL.ImageDraw  # noqa: PLC0415

    if not 8 <= pixels <= 4096:
        raise OptionError(f"pixels={pixels}", expected="8 to 4096")
    rng = random.Random(scene.seed)
    side = pixels * _OVERSAMPLING
    paper = _jitter(PAPERS[scene.background], _PAPER_JITTER, rng)
    image = PIL.Image.new("RGB", (side, side), paper)
    pencil = PIL.ImageDraw.Draw(image)
    for item in scene.items:
        _draw_item(pencil, item, side, _jitter(inks[item.colour], _INK_JITTER, rng), paper)
    reduced: Image = image.reduce(_OVERSAMPLING)
    return reduced


def _jitter(colour: Colour, amount: int, rng: random.Random) -> Colour:
    red, green, blue = (
        min(max(value + round(rng.uniform(-amount, amount)), 0), 255) for value in colour
    )
    return red, green, blue


def _draw_item(pencil: ImageDraw, item: Item, side: int, ink: Colour, paper: Colour) -> None:
    for centre, radius, filled in _DISCS.get(item.shape, ()):
        pencil.ellipse(_box(item, side, centre, radius), fill=ink if filled else paper)
    if item.shape not in _DISCS:
        turned = [_turn(point, item.tilt) for point in _outline(item.shape)]
        corners = [(item.x + x * item.radius, item.y + y * item.radius) for x, y in turned]
        pencil.polygon([(x * side, y * side) for x, y in corners], fill=ink)


def _box(item: Item, side: int, centre: Point, radius: float) -> tuple[float, float, float, float]:
    """Return the square around a disc that is given in parts of the item's radius."""
    x, y = _turn(centre, item.tilt)
    x, y, r = item.x + x * item.radius, item.y + y * item.radius, radius * item.radius
    return (x - r) * side, (y - r) * side, (x + r) * side, (y + r) * side


def _turn(point: Point, degrees: float) -> Point:
    angle = math.radians(degrees)
    x, y = point
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def _around(count: int, radius: float, start: float) -> list[Point]:
    """Return ``count`` points on a circle, the first at ``start`` degrees from the right."""
    angles = [math.radians(start + 360 * i / count) for i in range(count)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


_ARROW = ((0.0, -1.0), (0.75, -0.1), (0.28, -0.1), (0.28, 0.95))


@cache
def _outline(shape: str) -> tuple[Point, ...]:
    """Return a shape's corners inside the unit circle; y grows downwards."""
    if shape == "star":
        outer, inner = _around(5, 1.0, -90), _around(5, 0.42, -54)
        return tuple(point for pair in zip(outer, inner, strict=True) for point in pair)
    if shape == "heart":
        return tuple(_heart_point(math.tau * i / 40) for i in range(40))
    if shape == "cross":
        arm = ((-0.3, -0.9), (0.3, -0.9), (0.3, -0.3))
        return tuple(_turn(point, 90 * quarter) for quarter in range(4) for point in arm)
    return {
        "square": ((-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)),
        "triangle": tuple(_around(3, 1.0, -90)),
        "diamond": ((0.0, -1.0), (0.62, 0.0), (0.0, 1.0), (-0.62, 0.0)),
        "arrow": (*_ARROW, *((-x, y) for x, y in _ARROW[:0:-1])),
    }[shape]


def _heart_point(angle: float) -> Point:
    """The heart curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled."""
    x = 16 * math.sin(angle) ** 3
    y = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle)
    return x / 18, -(y - math.cos(4 * angle) + 2) / 18
