"""The report of a showcase as one picture, for places that show no HTML."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from fuse_index.demo.drawing import draw
from fuse_index.demo.report import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuse_index.demo.captioning import Finding
    from fuse_index.demo.scene import Scene
    from fuse_index.demo.showcase import Showcase

_PIXELS = 168
_WIDTH = 1180
_MARGIN = 18
_COLUMNS = 125
_TEXT, _FAINT, _LINE = "#222222", "#666666", "#dddddd"


def report_picture(showcase: Showcase) -> Image.Image:
    """Draw every scene with its captions, and what was measured of them.

    Args:
        showcase: with at least one scene.
    """
    row = _PIXELS + 2 * _MARGIN
    page = Image.new("RGB", (_WIDTH, row * max(len(showcase.scenes), 1)), "white")
    for number, scene in enumerate(showcase.scenes):
        _draw_scene(page, number * row, scene, showcase.of(number))
    return page


def _draw_scene(page: Image.Image, top: int, scene: Scene, findings: Sequence[Finding]) -> None:
    pen = ImageDraw.Draw(page)
    if top:
        pen.line([(0, top), (_WIDTH, top)], fill=_LINE)
    page.paste(draw(scene, _PIXELS), (_MARGIN, top + _MARGIN))
    left, y = 2 * _MARGIN + _PIXELS, top + _MARGIN
    for finding in findings:
        _draw_finding(pen, left, y, finding)
        y += _PIXELS // 3


def _draw_finding(pen: ImageDraw.ImageDraw, left: int, top: int, finding: Finding) -> None:
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    pen.rounded_rectangle(
        [left, top + 1, left + 66, top + 19], radius=4, fill=COLOURS[finding.request]
    )
    pen.text((left + 7, top + 2), finding.request.value, font=small, fill="white")
    text = textwrap.shorten(finding.text, _COLUMNS, placeholder=" …")
    pen.text((left + 78, top), text, font=large, fill=_TEXT)
    figures = (
        f"F1 {finding.agreement.f1:.2f} · CLIP {finding.likeness:.2f} · "
        f"{finding.curve[-1][0]:,} forward passes · judge: {finding.verdict}"
    )
    pen.text((left + 78, top + 22), figures, font=small, fill=_FAINT)
