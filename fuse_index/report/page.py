"""What a report shows: pictures with captions, their losses, curves, alternatives and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuse_index.report.words import WordEffects

if TYPE_CHECKING:
    from PIL.Image import Image

    from fuse_index.optimize import Result

MOST_ALTERNATIVES = 8


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: a heading above it; "" for none.
        header: of every column.
        rows: cells; the first column is text.
        numbers: whether the other columns are numbers.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True


@dataclass(frozen=True)
class Alternative:
    """A prompt of the Pareto front: no other one is better in every loss.

    Attributes:
        text: the prompt.
        total: its weighted loss.
        losses: its loss in every term, by name.
    """

    text: str
    total: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Entry:
    """What was found for one request.

    Attributes:
        text: the caption or prompt.
        tag: what was asked; "" for nothing in particular.
        colour: of the tag and the curve, in CSS, of a contrast with white of 4.5 or more; by
            default that of the page.
        figures: name and value of what is said below the text.
        wrong: names of those figures that are not as they should be.
        curve: (forward passes, smallest total loss so far) of every step.
        alternatives: other prompts of the Pareto front, the smallest total first.
        words: what each word is worth to each model.
    """

    text: str
    tag: str = ""
    colour: str = "var(--accent)"
    figures: Sequence[tuple[str, str]] = ()
    wrong: Sequence[str] = ()
    curve: Sequence[tuple[int, float]] = ()
    alternatives: Sequence[Alternative] = ()
    words: WordEffects | None = None


@dataclass(frozen=True)
class Card:
    """A picture with what was found for it.

    Attributes:
        name: of the picture.
        alt: what stands for the picture where it is not seen.
        entries: what was found.
        picture: the picture; None where it cannot be shown.
    """

    name: str
    alt: str
    entries: Sequence[Entry]
    picture: Image | None = None


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: of the page.
        lead: what it shows, in a sentence or two.
        cards: pictures with their captions.
        notes: what the reader has to know first, such as what is missing.
        before: tables above the cards.
        after: tables below them.
    """

    title: str
    lead: str
    cards: Sequence[Card]
    notes: Sequence[str] = ()
    before: Sequence[Table] = ()
    after: Sequence[Table] = ()


def alternatives_of(result: Result) -> tuple[Alternative, ...]:
    """Return the other prompts of a result's Pareto front."""
    others = (point for point in result.pareto if point.text != result.text)
    found = [Alternative(point.text.strip(), point.total, dict(point.losses)) for point in others]
    return tuple(found[:MOST_ALTERNATIVES])


def curve_of(result: Result) -> tuple[tuple[int, float], ...]:
    """Return the smallest total loss so far over forward passes."""
    return tuple((point.forward_passes, point.best) for point in result.trajectory)
