"""``fuse-index demo``: the whole idea at work, offline."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console, _flags, _outputs, _pictures
from fuse_index.common.bounds import MAX_WIDTH

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from fuse_index.demo.captioning import Finding, Request
    from fuse_index.demo.scene import Scene
    from fuse_index.demo.showcase import Audience, Showcase
    from fuse_index.optimize.optimize import Callback

REPORT = "demo-report.html"
_COLOURS = {"plain": "blue", "positive": "green", "negative": "red"}


def demo_command(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the report goes.")
    ] = Path(),
    seed: _flags.Seed = 0,
    scenes: Annotated[int, typer.Option(max=MAX_WIDTH, help="Pictures to caption.")] = 6,
    picture: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Save the captions as a picture too.")
    ] = None,
    json: _flags.Json = False,
) -> None:
    """Caption pictures that no model was trained on: plainly, with liking, with dislike.

    A language model, a CLIP and a sentiment classifier, each with another tokenizer, come with
    the package; adapters between them are built on the spot. The truth about the pictures is known,
    so every caption is shown with the F1 of what it says, and a second classifier judges its
    feeling. The report, demo-report.html, is one file with pictures, captions and loss curves.

    It needs neither network nor GPU. Ctrl-C ends it, and the report has what was done (exit 130).
    """
    from fuse_index.demo.captioning import GuideOptions
    from fuse_index.demo.report import showcase_html
    from fuse_index.demo.showcase import ShowcaseOptions, run_showcase

    options = ShowcaseOptions(scenes=scenes, guide=GuideOptions(seed=seed))
    path = _place(out)
    if picture:
        _outputs.require_writable(picture, "--picture")
    with _audience(json) as audience:
        showcase = run_showcase(options, audience)
    unsaved = [_outputs.save(showcase_html(showcase).encode(), path, "--out", is_text=False)]
    if picture:
        unsaved.append(_outputs.save(_as_png(showcase), picture, "--picture", is_text=False))
    place = "not written" if unsaved[0] is not None else str(path)
    report = showcase.to_json() | {"report": place}
    _outputs.finish(json, report, lambda: _sum_up(showcase, place), unsaved)
    if showcase.interrupted:
        raise _console.StoppedEarlyError(
            f"interrupted: {len(showcase.findings)} captions were finished; they are in {path}"
        )


def _place(folder: Path) -> Path:
    """Make the folder and return the report's path, before any work is done."""
    with _outputs.writing(f"--out {folder}", "name another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / REPORT
    _outputs.require_writable(path, "--out")
    return path


def _as_png(showcase: Showcase) -> bytes:
    from io import BytesIO

    from fuse_index.demo.picture import report_picture

    buffer = BytesIO()
    report_picture(showcase).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _sum_up(showcase: Showcase, place: str) -> None:
    header = ["request", "captions", "F1", "CLIP cosine", "judge agrees"]
    _console.print_table(header, showcase.summary_rows())
    _console.say(f"{showcase.seconds['all']:.1f} s; the report is {place}")


@contextlib.contextmanager
def _audience(json: bool) -> Iterator[Audience]:
    """Where the captions are shown: a live table on a terminal, else plain lines."""
    console = _console.stdout_console()
    if not json and console.is_terminal and not _console.is_quiet():
        with live_stage(console) as stage:
            yield stage
        return
    with _console.ProgressBar() as bar:
        yield plain_stage(bar, show=not json)


def plain_stage(bar: _console.ProgressBar, *, show: bool) -> Audience:
    """Return an audience that writes one line a caption, and progress to stderr."""
    from fuse_index.demo.showcase import Audience

    class PlainStage(Audience):
        def stage(self, label: str, done: int, total: int | None) -> None:
            bar(label, done, total)

        def begin(self, number: int, scene: Scene, request: Request) -> list[Callback]:
            bar(f"scene {number + 1}, {request.value}", 0, None)
            return []

        def found(self, finding: Finding) -> None:
            if show:
                said = f"{finding.request.value:<8}  {finding.text}"
                line = f"scene {finding.scene + 1}  {said}  ({_figures(finding)})"
                _console.say(line)
                sys.stdout.flush()

    return PlainStage()


def _figures(finding: Finding) -> str:
    figures = f"F1 {finding.agreement.f1:.2f}, CLIP {finding.likeness:.2f}"
    return f"{figures}, judge: {finding.verdict}"


@contextlib.contextmanager
def live_stage(console: Console) -> Iterator[Audience]:
    """Show the scene that is worked on, and leave those that are done above it."""
    from rich.live import Live

    from fuse_index.demo.drawing import draw
    from fuse_index.demo.showcase import REQUESTS, Audience

    pictures = _pictures.shows_pictures(console)

    class LiveStage(Audience):
        def __init__(self, live: Live) -> None:
            self._live = live
            self._scene: Scene | None = None
            self._number = 0
            self._done: list[Finding] = []
            self._doing: tuple[str, str] | None = None

        def stage(self, label: str, done: int, total: int | None) -> None:
            count = "" if total is None else f" ({done} of {total})"
            self._live.update(_console.clean(f"{label}{count} ..."))

        def begin(self, number: int, scene: Scene, request: Request) -> list[Callback]:
            if number != self._number or self._scene is None:
                self._number, self._scene, self._done = number, scene, []
            self._doing = (request.value, "")
            self._refresh()
            return [self._step]

        def _step(self, run: Any, point: Any) -> None:
            if self._doing is not None:
                text = run.problem.decode(point.ids).strip()
                self._doing = (self._doing[0], f"{text}  ({point.best:.2f})")
                self._refresh()

        def found(self, finding: Finding) -> None:
            self._done.append(finding)
            self._doing = None
            if len(self._done) == len(REQUESTS):
                self._keep()
            else:
                self._refresh()

        def leave(self) -> None:
            """Print a scene that is not finished, and clear what is in work."""
            self._doing = None
            if 0 < len(self._done) < len(REQUESTS):
                self._keep()
            self._live.update("")

        def _keep(self) -> None:
            self._live.update("", refresh=True)
            console.print(self._row())

        def _refresh(self) -> None:
            self._live.update(self._row())

        def _row(self) -> RenderableType:
            assert self._scene is not None
            shown = _pictures.thumbnail(draw(self._scene)) if pictures else None
            return scene_table(self._number, shown, self._done, self._doing)

    with Live(console=console, transient=True, refresh_per_second=8) as live:
        stage = LiveStage(live)
        try:
            yield stage
        finally:
            stage.leave()


def scene_table(
    number: int, picture: Any, done: list[Finding], doing: tuple[str, str] | None
) -> RenderableType:
    """Lay one scene out: its picture, if it can be shown, and its captions below each other."""
    from rich.table import Table
    from rich.text import Text

    captions = Text()
    for finding in done:
        request = finding.request.value
        captions.append(f"{request}\n", f"bold {_COLOURS[request]}")
        captions.append(f"{_console.clean(finding.text)}\n")
        captions.append(f"{_figures(finding)}, {finding.seconds:.1f} s\n", "dim")
    if doing is not None:
        captions.append(f"{doing[0]}\n", f"bold {_COLOURS[doing[0]]}")
        captions.append(_console.clean(doing[1]), "italic")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(f"scene {number + 1}" if picture is None else picture, captions)
    return table
