"""What ``fuse-index demo`` does: test scenes captioned plainly, with liking and with dislike."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse_index.common.threads import one_thread
from fuse_index.demo.captioning import Finding, GuideOptions, Request, SceneCaptioner
from fuse_index.demo.cast import assemble_cast
from fuse_index.demo.scene import Scene, make_scene
from fuse_index.demo.splits import Split
from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from fuse_index.optimize.optimize import Callback

REQUESTS = tuple(Request)
_MOST_SCENES = 1000


@dataclass(frozen=True)
class ShowcaseOptions:
    """What is shown.

    Attributes:
        scenes: how many of the test split, from its first on.
        guide: how captions are looked for; its seed decides every draw.
        folder: where the models are; None is the package's own.
    """

    scenes: int = 6
    guide: GuideOptions = field(default_factory=GuideOptions)
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.scenes <= _MOST_SCENES:
            raise OptionError(f"scenes={self.scenes}", expected=f"1 to {_MOST_SCENES}")


class Audience:
    """Is told how a showcase goes on; every method may be overridden."""

    def stage(self, label: str, done: int, total: int | None) -> None:
        """A stage before the first caption begins."""

    def begin(self, number: int, scene: Scene, request: Request) -> list[Callback]:
        """A caption is begun; the callbacks returned are called after every step."""
        del number, scene, request
        return []

    def found(self, finding: Finding) -> None:
        """A caption is there."""


@dataclass
class Showcase:
    """What was done; an interrupt loses only what it interrupts.

    Attributes:
        options: what was asked.
        scenes: those that were begun.
        findings: captions that are finished, in the order they were asked for.
        quality: of the adapters on held-out words, by target and group.
        seconds: by stage, and "all".
        interrupted: whether an interrupt ended it.
    """

    options: ShowcaseOptions
    scenes: tuple[Scene, ...] = ()
    findings: tuple[Finding, ...] = ()
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False

    def of(self, number: int) -> tuple[Finding, ...]:
        """Return the findings of one scene."""
        return tuple(finding for finding in self.findings if finding.scene == number)

    def summary(self) -> dict[str, Any]:
        """Return means by request: F1, CLIP's cosine, and the share the judge agrees with."""
        rows: dict[str, Any] = {}
        for request in REQUESTS:
            own = [finding for finding in self.findings if finding.request is request]
            if own:
                rows[request.value] = {
                    "captions": len(own),
                    "f1": sum(finding.agreement.f1 for finding in own) / len(own),
                    "clip": sum(finding.likeness for finding in own) / len(own),
                    "kept": sum(finding.kept for finding in own) / len(own),
                }
        return rows

    def summary_rows(self) -> list[list[str]]:
        """Return the summary as text: request, captions, F1, cosine, share agreed with."""
        return [
            [
                request,
                str(row["captions"]),
                f"{row['f1']:.2f}",
                f"{row['clip']:.2f}",
                f"{row['kept']:.0%}",
            ]
            for request, row in self.summary().items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pictures as a JSON object."""
        return {
            "captions": [finding.to_json() for finding in self.findings],
            "summary": self.summary(),
            "adapters": self.quality,
            "seconds": self.seconds,
            "seed": self.options.guide.seed,
            "scenes": self.options.scenes,
            "interrupted": self.interrupted,
        }


def run_showcase(
    options: ShowcaseOptions | None = None, audience: Audience | None = None
) -> Showcase:
    """Caption test scenes; an interrupt gives what is done by then.

    Args:
        options: what is shown.
        audience: called as it happens.

    Raises:
        ModelError: a file of the models is missing or damaged.
        StorageError: there is no place for the adapters' files.
    """
    begin = time.perf_counter()
    showcase = Showcase(options or ShowcaseOptions())
    try:
        with one_thread():  # the models are so small that threads would mostly wait for each other
            _perform(showcase, audience or Audience())
    except KeyboardInterrupt:
        showcase.interrupted = True
    showcase.seconds["all"] = time.perf_counter() - begin
    return showcase


def _perform(showcase: Showcase, audience: Audience) -> None:
    options = showcase.options
    cast = assemble_cast(options.folder, audience.stage)
    showcase.quality, showcase.seconds = cast.quality, dict(cast.seconds)
    audience.stage("writing drafts", 0, None)
    begin = time.perf_counter()
    captioner = SceneCaptioner(cast, options.guide)
    captioner.drafts.score()
    showcase.seconds["drafts"] = time.perf_counter() - begin
    begin = time.perf_counter()
    for number in range(options.scenes):
        scene = make_scene(Split.TEST, number)
        showcase.scenes += (scene,)
        for request in REQUESTS:
            callbacks = audience.begin(number, scene, request)
            plain = next((finding.text for finding in showcase.of(number)), "")
            finding = captioner.caption(scene, number, request, callbacks, plain)
            showcase.findings += (finding,)
            showcase.seconds["captions"] = time.perf_counter() - begin
            audience.found(finding)
