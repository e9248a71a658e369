"""Which combinations of attributes belong to training, validation and test."""

from __future__ import annotations

from enum import Enum
from functools import cache

from fuse_index.demo.lexicon import COLOURS, SHAPES


class Split(str, Enum):
    """A part of the world."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


_TEST_SHIFT, _VALIDATION_SHIFT = 3, 7


@cache
def pairs_of(split: Split) -> tuple[tuple[str, str], ...]:
    """Return the (shape, colour) pairs of a split: 80 for training, 10 for each of the others.

    Shapes and colours form a 10 x 10 square; two of its diagonals are held out, so that every
    shape and every colour occurs in every split and is seen in training with eight others.
    """
    shapes, colours = list(SHAPES), list(COLOURS)
    shift_of = {_TEST_SHIFT: Split.TEST, _VALIDATION_SHIFT: Split.VALIDATION}
    return tuple(
        (shape, colour)
        for row, shape in enumerate(shapes)
        for column, colour in enumerate(colours)
        if shift_of.get((column - row) % len(colours), Split.TRAIN) is split
    )


@cache
def companions_of(split: Split) -> tuple[tuple[str, str], ...]:
    """Return the pairs that may stand beside one of the split's own: these and training's."""
    own = pairs_of(split)
    return own if split is Split.TRAIN else own + pairs_of(Split.TRAIN)
