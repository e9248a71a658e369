"""The report of a showcase: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fuse_index.demo.captioning import Finding, Request
from fuse_index.demo.drawing import draw

if TYPE_CHECKING:
    from fuse_index.demo.scene import Scene
    from fuse_index.demo.showcase import Showcase

_PIXELS = 176
_CURVE = (176, 48)
COLOURS = {Request.PLAIN: "#4a6fa5", Request.POSITIVE: "#3a9d5d", Request.NEGATIVE: "#c2504a"}
_STAGES = {
    "check": "checking the models' files",
    "load": "loading four models",
    "build": "building two adapters",
    "drafts": "drafts of the language model",
    "captions": "captions",
    "all": "all",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem;
       padding: 0 1rem; color: #222; background: #fff; }
h1 { margin-bottom: 0; } .lead { color: #555; margin-top: .2rem; }
.scene { display: grid; grid-template-columns: 180px 1fr; gap: 1.2rem; padding: 1rem 0;
         border-top: 1px solid #ddd; }
.scene img { width: 176px; height: 176px; border-radius: 6px; border: 1px solid #ccc; }
.said { display: grid; grid-template-columns: 6rem 1fr 180px; gap: .8rem; align-items: center; }
.tag { color: #fff; border-radius: 4px; padding: 0 .5rem; font-size: .85rem;
       justify-self: start; }
.figures { color: #666; font-size: .85rem; } .bad { color: #b3261e; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
.note { background: #fff4d6; padding: .5rem 1rem; border-radius: 6px; }
"""


def report_html(showcase: Showcase) -> str:
    """Return the report as one HTML document, pictures and curves inside it."""
    done = len(showcase.findings)
    asked = showcase.options.scenes * len(Request)
    parts = [
        "<h1>fuse_index demo</h1>",
        "<p class='lead'>Captions made by composing a language model, a CLIP and a sentiment "
        "classifier with a tokenizer each, through adapters built on the spot. None of these "
        "pictures was trained on: each shows a shape in a colour that training never showed.</p>",
    ]
    if showcase.interrupted:
        parts.append(f"<p class='note'>Interrupted: {done} of {asked} captions were finished.</p>")
    header = ["request", "captions", "scene-graph F1", "CLIP cosine", "judge agrees"]
    parts.append(_table(header, showcase.summary_rows()))
    parts += [_scene(scene, showcase.of(n)) for n, scene in enumerate(showcase.scenes)]
    parts.append("<h2>Adapters on held-out words</h2>")
    parts += [_quality(name, groups) for name, groups in showcase.quality.items()]
    parts.append("<h2>Seconds</h2>")
    seconds = showcase.seconds
    rows = [[name, f"{seconds[key]:.2f}"] for key, name in _STAGES.items() if key in seconds]
    parts.append(_table(["stage", "seconds"], rows))
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>fuse_index demo</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _scene(scene: Scene, findings: Sequence[Finding]) -> str:
    return (
        f"<div class='scene'><img alt='scene' src='{picture_uri(scene)}'><div>"
        + "".join(_said(finding) for finding in findings)
        + "</div></div>"
    )


def _said(finding: Finding) -> str:
    colour = COLOURS[finding.request]
    figures = (
        f"F1 {finding.agreement.f1:.2f} &middot; CLIP {finding.likeness:.2f} &middot; "
        f"{finding.curve[-1][0]:,} forward passes &middot; {finding.seconds:.1f} s"
    )
    kind = "" if finding.kept else " class='bad'"
    figures += f" &middot; <span{kind}>judge: {html.escape(finding.verdict)}</span>"
    return (
        f"<div class='said'><span class='tag' style='background:{colour}'>"
        f"{finding.request.value}</span><div>{html.escape(finding.text)}"
        f"<div class='figures'>{figures}</div></div>{curve_svg(finding.curve, colour)}</div>"
    )


def picture_uri(scene: Scene, pixels: int = _PIXELS) -> str:
    """Return a scene's picture as a data URI."""
    buffer = io.BytesIO()
    draw(scene, pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def curve_svg(curve: Sequence[tuple[int, float]], colour: str) -> str:
    """Draw the smallest loss so far over forward passes, as inline SVG.

    Args:
        curve: (forward passes, loss), at least one point.
        colour: of the line.
    """
    width, height = _CURVE
    passes, losses = [p for p, _ in curve], [loss for _, loss in curve]
    low, high = min(losses), max(losses)
    across = max(passes[-1] - passes[0], 1)
    down = (high - low) or 1.0
    points = " ".join(
        f"{2 + (width - 4) * (p - passes[0]) / across:.1f},"
        f"{3 + (height - 6) * (high - loss) / down:.1f}"
        for p, loss in curve
    )
    return (
        f"<svg width='{width}' height='{height}' role='img'><title>loss {high:.2f} to {low:.2f} in "
        f"{passes[-1]:,} forward passes</title><polyline points='{points}' fill='none' "
        f"stroke='{colour}' stroke-width='2'/></svg>"
    )


def _quality(target: str, groups: dict[str, Any]) -> str:
    rows = [
        [name, *(_figure(group.get(key)) for key in _QUALITY)]
        for name, group in groups.items()
        if isinstance(group, dict)
    ]
    header = [f"to {target}", *(key.replace("_", " ") for key in _QUALITY)]
    return _table(header, rows)


_QUALITY = ("words", "held_out", "relative_error", "cosine", "baseline_error")


def _figure(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
