"""The report of a showcase: one HTML file that needs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fuse_index.demo.captioning import Finding, Request
from fuse_index.demo.drawing import draw
from fuse_index.demo.grammar import FULL, make_sentences
from fuse_index.report import Card, Entry, Page, Table, report_html

if TYPE_CHECKING:
    from fuse_index.demo.scene import Scene
    from fuse_index.demo.showcase import Showcase

_PIXELS = 384
COLOURS = {Request.PLAIN: "#4a6fa5", Request.POSITIVE: "#2e7d4c", Request.NEGATIVE: "#b8443e"}
SUMMARY = ("request", "captions", "scene-graph F1", "CLIP cosine", "judge agrees")
_STAGES = {
    "check": "checking the models' files",
    "load": "loading four models",
    "build": "building two adapters",
    "drafts": "drafts of the language model",
    "captions": "captions",
    "all": "all",
}
_LEAD = (
    "Captions made by composing a language model, a CLIP and a sentiment classifier with a "
    "tokenizer each, through adapters built on the spot. None of these pictures was trained on: "
    "each shows a shape in a colour that training never showed."
)
_QUALITY = ("words", "held_out", "relative_error", "cosine", "baseline_error")


def showcase_html(showcase: Showcase) -> str:
    """Return the report as one HTML document, pictures and curves inside it."""
    return report_html(showcase_page(showcase))


def showcase_page(showcase: Showcase) -> Page:
    """Return what the report shows."""
    done, asked = len(showcase.findings), showcase.options.scenes * len(Request)
    stopped = f"Interrupted: {done} of {asked} captions were finished."
    seconds = showcase.seconds
    timings = [[name, f"{seconds[key]:.2f}"] for key, name in _STAGES.items() if key in seconds]
    return Page(
        title="fuse_index demo",
        lead=_LEAD,
        notes=[stopped] if showcase.interrupted else [],
        before=[Table("", SUMMARY, showcase.summary_rows())],
        cards=[_card(n, scene, showcase.of(n)) for n, scene in enumerate(showcase.scenes)],
        after=[
            *(_quality(name, groups) for name, groups in showcase.quality.items()),
            Table("Seconds", ("stage", "seconds"), timings),
        ],
    )


def _card(number: int, scene: Scene, findings: tuple[Finding, ...]) -> Card:
    truth = make_sentences(scene, 1, options=FULL)[0].text
    return Card(
        name=f"scene {number + 1}",
        alt=f"A drawing: {truth}",
        picture=draw(scene, _PIXELS),
        entries=[_entry(finding) for finding in findings],
    )


def _entry(finding: Finding) -> Entry:
    return Entry(
        text=finding.text,
        tag=finding.request.value,
        colour=COLOURS[finding.request],
        figures=[
            ("F1", f"{finding.agreement.f1:.2f}"),
            ("CLIP", f"{finding.likeness:.2f}"),
            ("judge", finding.verdict),
            ("forward passes", f"{finding.curve[-1][0]:,}"),
            ("seconds", f"{finding.seconds:.1f}"),
        ],
        wrong=[] if finding.kept else ["judge"],
        curve=finding.curve,
        alternatives=finding.alternatives,
        words=finding.words,
    )


def _quality(target: str, groups: dict[str, Any]) -> Table:
    rows = [
        [name, *(_figure(group.get(key)) for key in _QUALITY)]
        for name, group in groups.items()
        if isinstance(group, dict)
    ]
    header = ["group", *(key.replace("_", " ") for key in _QUALITY)]
    return Table(f"Adapter to {target}, on held-out words", header, rows)


def _figure(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
