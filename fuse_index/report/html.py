"""A report as one HTML document that needs no other file, no script and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from fuse_index.report.page import Alternative, Card, Entry, Page, Table
from fuse_index.report.style import STYLE
from fuse_index.report.words import WordEffects

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_PIXELS = 512
"""The longer side of a picture in a report, at most."""
_JPEG_QUALITY = 85
_CURVE = (600, 90)
_LEAST = 0.005
"""A change that rounds to nothing."""
_EFFECTS = (
    "How much each weighted loss rises where this word alone is left out: green, the model wants "
    "the word; orange, it would do without."
)
_SURPRISAL = (
    " Nats: what the language model pays for the word behind those before it, its surprisal."
)
_FORMATS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("PNG", {"optimize": True}),
    ("JPEG", {"quality": _JPEG_QUALITY}),
)


def report_html(page: Page) -> str:
    """Return a report as one document that needs no other file and no network.

    Args:
        page: what it shows.
    """
    parts = [f"<h1>{escape(page.title)}</h1>", f"<p class='lead'>{escape(page.lead)}</p>"]
    parts += [f"<p class='note'>{escape(note)}</p>" for note in page.notes]
    parts += [_table(table) for table in page.before]
    parts += [_card(card) for card in page.cards]
    parts += [_table(table) for table in page.after]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(page.title)}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _card(card: Card) -> str:
    picture = ""
    if card.picture is not None:
        width, height = card.picture.size
        picture = (
            f"<img alt='{escape(card.alt)}' src='{picture_uri(card.picture)}' "
            f"width='{width}' height='{height}'>"
        )
    return (
        f"<article class='card'><figure>{picture}<figcaption>{escape(card.name)}</figcaption>"
        "</figure><div>" + "".join(_entry(entry) for entry in card.entries) + "</div></article>"
    )


def _entry(entry: Entry) -> str:
    parts = []
    if entry.tag:
        parts.append(
            f"<span class='tag' style='background:{entry.colour}'>{escape(entry.tag)}</span>"
        )
    parts.append(f"<p class='said'>{escape(entry.text)}</p>")
    figures = "".join(
        f"<li{' class=bad' if name in entry.wrong else ''}>"
        f"{escape(name)} <b>{escape(value)}</b></li>"
        for name, value in entry.figures
    )
    parts.append(f"<ul class='figures'>{figures}</ul>")
    if len(entry.curve) > 1:
        parts.append(_curve(entry.curve, entry.colour))
    if entry.words is not None:
        parts.append(_words(entry.words))
    if entry.alternatives:
        parts.append(_alternatives(entry.alternatives))
    return f"<section class='entry'>{''.join(parts)}</section>"


def picture_uri(picture: Image) -> str:
    """Return a picture as a data URI of at most :data:`PICTURE_PIXELS`, in the smaller format."""
    small = picture.convert("RGB")
    small.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    found = []
    for kind, options in _FORMATS:
        buffer = io.BytesIO()
        small.save(buffer, kind, **options)
        found.append((kind.lower(), buffer.getvalue()))
    kind, data = min(found, key=lambda item: len(item[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _curve(curve: Sequence[tuple[int, float]], colour: str) -> str:
    """The smallest loss so far over forward passes, as inline SVG with its ends in words."""
    (first, high), (last, low) = curve[0], curve[-1]
    what = f"smallest loss so far: {high:.3f} at forward pass {first:,}, {low:.3f} at {last:,}"
    width, height = _CURVE
    return (
        f"<div class='curve'><svg viewBox='0 0 {width} {height}' preserveAspectRatio='none' "
        f"role='img' aria-label='{what}'><polyline points='{curve_points(curve)}' fill='none' "
        f"style='stroke:{colour}' stroke-width='2' vector-effect='non-scaling-stroke'/></svg>"
        f"<div class='ends small'><span>loss {high:.3f} at pass {first:,}</span>"
        f"<span>{low:.3f} at pass {last:,}</span></div></div>"
    )


def curve_points(curve: Sequence[tuple[int, float]]) -> str:
    """Return the points of a polyline: steps down from the upper left to the lower right.

    Args:
        curve: (forward passes, loss), at least one point.
    """
    width, height = _CURVE
    passes, losses = [count for count, _ in curve], [loss for _, loss in curve]
    high, low = max(losses), min(losses)
    across, down = max(passes[-1] - passes[0], 1), (high - low) or 1.0
    points, before = [], None
    for count, loss in curve:
        x = 2 + (width - 4) * (count - passes[0]) / across
        y = 3 + (height - 6) * (high - loss) / down
        if before is not None and before != y:
            points.append(f"{x:.1f},{before:.1f}")
        points.append(f"{x:.1f},{y:.1f}")
        before = y
    return " ".join(points)


def _words(effects: WordEffects) -> str:
    """A table: how much the weighted loss of each model rises where a word is left out."""
    largest = max((abs(v) for row in effects.changes for v in row if v is not None), default=0.0)
    extra = ["nats"] if effects.surprisal else []
    head = "".join(
        f"<th scope='col'>{escape(n)}</th>" for n in ["word", *effects.terms, "sum", *extra]
    )
    body = []
    for index, word in enumerate(effects.words):
        row = effects.changes[index]
        whole = None if None in row else sum(value for value in row if value is not None)
        cells = "".join(_effect(value, largest) for value in (*row, whole))
        if effects.surprisal:
            nats = effects.surprisal[index]
            cells += f"<td>{'-' if nats is None else f'{nats:.2f}'}</td>"
        body.append(f"<tr><td>{escape(word)}</td>{cells}</tr>")
    told = _EFFECTS + (_SURPRISAL if extra else "")
    return (
        "<details><summary>What each word is worth to each model</summary>"
        f"<p class='small'>{told}</p><div class='wide'><table><tr>{head}</tr>{''.join(body)}"
        "</table></div></details>"
    )


def _effect(value: float | None, largest: float) -> str:
    if value is None:
        return "<td>-</td>"
    kind = "help" if value > 0 else "harm"
    share = min(abs(value) / largest, 1.0) ** 0.5 if largest else 0.0  # small ones show as well
    if abs(value) < _LEAST:
        return "<td>0</td>"
    return f"<td class='{kind}' style='--s:{share:.2f}'>{value:+.2f}</td>"


def _alternatives(items: Sequence[Alternative]) -> str:
    names = list(items[0].losses)
    count = f"{len(items)} alternatives that are" if len(items) > 1 else "1 alternative that is"
    head = ["alternative", "total", *names]
    rows = [
        f"<tr><td class='text'>{escape(item.text)}</td><td>{item.total:.3f}</td>"
        + "".join(f"<td>{item.losses[name]:.3f}</td>" for name in names)
        + "</tr>"
        for item in items
    ]
    return (
        f"<details><summary>{count} better in some loss</summary>"
        "<div class='wide'><table><tr>"
        + "".join(f"<th scope='col'>{escape(name)}</th>" for name in head)
        + f"</tr>{''.join(rows)}</table></div></details>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in table.header)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in table.rows)
    kind = "" if table.numbers else " class='texts'"
    title = f"<h2>{escape(table.title)}</h2>" if table.title else ""
    return f"{title}<div class='wide'><table{kind}><tr>{head}</tr>{body}</table></div>"


def _cells(row: Iterable[str]) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in row)
