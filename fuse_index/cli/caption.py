"""``fuse-index caption``: images in, captions out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console, _flags, _outputs, _run
from fuse_index.cli._flags import MODEL_HELP
from fuse_index.common.bounds import MAX_WIDTH
from fuse_index.errors import FuseIndexError, ImageError

if TYPE_CHECKING:
    from fuse_index.optimize import Result
    from fuse_index.optimize.optimize import Callback
    from fuse_index.run import CaptionConfig
    from fuse_index.run.captioned import Caption, Captions, FailedImage
    from fuse_index.run.captions import Captioner


@_flags.with_flags
def caption_command(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="Image files, or folders of images."),
    ] = None,
    lm: Annotated[
        str | None, typer.Option("--lm", help=f"Language model whose tokens are used: {MODEL_HELP}")
    ] = None,
    clip: Annotated[
        str | None, typer.Option("--clip", help="CLIP that compares caption and image.")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option("--classifier", help="Classifier whose label captions are to get.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="That label, by name or index.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="RUN.yaml", help="Run file, YAML or JSON."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.json", help="Captions with their whole results."),
    ] = None,
    nested: Annotated[
        bool, typer.Option("--nested", help="Read folders in the folders of images too.")
    ] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Captions and losses as CSV.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="One page with pictures, captions, curves, alternatives, and what each word is "
            "worth to each model.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="States of the runs; those that are there already go on."
        ),
    ] = None,
    together: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_WIDTH, help="Images at once.  [default: 64 on GPUs, 1 on a CPU]"
        ),
    ] = None,
    *,
    flags: _flags.RunFlags,
) -> None:
    """Describe images by prompts that are fluent, similar to the image, and of a label if given.

    The language model writes drafts; then words are replaced, inserted and left out, and sentences
    rewritten and crossed, where that lowers the weighted sum of the caption's negative
    log-likelihood (1/12), CLIP's 1 - cosine (40) and the classifier's cross-entropy to the label
    (1). An image gets 1,500 forward passes. Models are loaded once for all images.

    Every field of a run file is a flag too (--fields lists them): --forward-passes 600,
    --clip.weight 20, --lm.prefix "A photo of". Ctrl-C ends the run after the step it is in and
    gives what there is (exit code 130).
    """
    if flags.answered(captions=True):
        return
    roles = {"lm.model": lm, "clip.model": clip, "classifier.model": classifier}
    named = {**roles, "classifier.label": label}
    settings = [(path, text) for path, text in named.items() if text is not None]
    config = _config(file, settings + flags.settings())
    found, broken = _images(images or (), nested)
    written = (
        (out, "--out"),
        (csv_file, "--csv"),
        (report, "--report"),
        (flags.events, "--events"),
    )
    for path, flag in written:
        _outputs.require_writable(path, flag)
    states = [_checkpoint(checkpoint, image) for image in found]
    with _console.ProgressBar() as bar:
        from fuse_index.run.captions import Captioner

        begun = next((path for path in states if path is not None and path.exists()), None)
        captioner = Captioner(config, offline=flags.offline, progress=bar, checkpoint=begun)
    _run.note_choice(captioner.method)
    page = None if report is None else (report, captioner)
    files = partial(_save, out=out, csv_file=csv_file, page=page)
    every = dict(zip(found, states, strict=True))
    captions = _caption_all(captioner, every, broken, together, flags, files)
    interrupted = any(item.result.stop.value == "interrupted" for item in captions.items)
    if captions.failed and not interrupted:
        _fail(captions, flags.json, files)
    _outputs.finish(flags.json, captions.to_json(), partial(_show, captions), files(captions))
    for item in captions.items:
        _run.stop_if_interrupted(item.result)


def _config(file: Path | None, settings: list[tuple[str, Any]]) -> CaptionConfig:
    from fuse_index.run.captions import read_captions

    value = _run.read_file(file)
    _flags.put(value, settings)
    return read_captions(value)


def _images(given: Sequence[Path], nested: bool) -> tuple[list[str], list[FailedImage]]:
    """All images, folders replaced by what is in them: those that can be read, and the rest.

    Raises:
        ImageError: none can be read.
    """
    from fuse_index.models.images import open_image
    from fuse_index.run import find_images
    from fuse_index.run.captioned import FailedImage

    if not given:
        raise ImageError("no image", expected="image files, or folders of images")
    found, broken = [], []
    for path in map(str, find_images(given, nested=nested)):
        try:
            open_image(path)
            found.append(path)
        except ImageError as error:
            broken.append(FailedImage(path, error))
    if not found:
        for item in broken[:-1]:
            _console.error(_console.one_line(item.message))
        raise broken[-1].error
    return found, broken


def _caption_all(
    captioner: Captioner,
    states: Mapping[str, Path | None],
    broken: Sequence[FailedImage],
    together: int | None,
    flags: _flags.RunFlags,
    save: Callable[[Captions], list[_outputs.Unsaved | None]],
) -> Captions:
    """Caption all images; what is done is kept whatever happens to the rest."""
    from fuse_index.run.captioned import Caption, Captions, FailedImage

    done: dict[str, Caption] = {}
    failed, begin = list(broken), time.perf_counter()

    def made() -> Captions:
        return Captions(
            tuple(done[image] for image in states if image in done),
            tuple(failed),
            time.perf_counter() - begin,
        )

    def write(image: str, callbacks: Sequence[Callback]) -> Result:
        return captioner.caption(image, callbacks, states[image], flags.checkpoint_every).result

    def keep(image: str, result: Result) -> None:
        done[image] = Caption(image, result)

    resuming = any(path is not None and path.exists() for path in states.values())
    try:
        with _run.Output(captioner.config.budget, flags.events, append=resuming) as output:
            numbers = {image: number for number, image in enumerate(states, 1)}

            def caption(image: str) -> Caption:
                own = output.about(f"{image} ({numbers[image]} of {len(states)})", image=image)
                result = own.watch(partial(write, image), on_failure=partial(keep, image))
                return Caption(image, result)

            for found in captioner.caption_all(list(states), caption, together=together):
                if isinstance(found, FailedImage):
                    failed.append(found)
                else:
                    keep(found.image, found.result)
    except BaseException as error:
        captions = made()
        if isinstance(error, FuseIndexError):
            error.result = captions
        if done and not flags.json:
            _outputs.finish_failed(partial(_show, captions), save(captions))
        elif done:
            save(captions)
        raise
    return made()


def _fail(
    captions: Captions,
    json: bool,
    save: Callable[[Captions], list[_outputs.Unsaved | None]],
) -> None:
    """Give what there is, name every image that failed, and end with the error of the last.

    Raises:
        FuseIndexError: of the last image that failed.
    """
    if captions.items:
        unsaved = save(captions)
        if not json:
            _outputs.finish_failed(partial(_show, captions), unsaved)
    for item in captions.failed[:-1]:
        _console.error(_console.one_line(item.message))
    last = captions.failed[-1]
    failure = type(last.error)(last.message)
    failure.result = captions
    raise failure from last.error


def _checkpoint(folder: Path | None, image: str) -> Path | None:
    """The file of one image's run: its name, and the start of a hash of its path."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(image.encode()).hexdigest()[:12]
    return folder / f"{Path(image).stem}-{digest}.checkpoint"


def _save(
    captions: Captions,
    out: Path | None,
    csv_file: Path | None,
    page: tuple[Path, Captioner] | None,
) -> list[_outputs.Unsaved | None]:
    import json

    text = json.dumps(captions.to_json(full=True), indent=1, allow_nan=False) + "\n"
    rows = []
    for item in captions.items:
        losses = (item.result.total, *item.result.losses.values())
        rows.append([item.image, item.text, *map(repr, losses)])
    header = ["image", "caption", "total", *captions.items[0].result.losses]
    return [
        _outputs.save(text.encode(), out, "--out"),
        _outputs.save(_outputs.csv_bytes(header, rows), csv_file, "--csv"),
        None if page is None else _save_report(captions, *page),
    ]


def _save_report(captions: Captions, path: Path, captioner: Captioner) -> _outputs.Unsaved | None:
    from fuse_index.report import report_html
    from fuse_index.run.report import captions_page

    with _console.ProgressBar() as bar:
        bar("writing the report", 0, None)
        html = report_html(captions_page(captioner, captions))
    return _outputs.save(html.encode(), path, "--report", is_text=False)


def _show(captions: Captions) -> None:
    names = list(captions.items[0].result.losses)
    rows = [
        [
            item.text,
            Path(item.image).name,
            f"{item.result.total:.4f}",
            *(f"{item.result.losses[name]:.4f}" for name in names),
        ]
        for item in captions.items
    ]
    _console.print_table(["caption", "image", "total", *names], rows)
    if len(captions.items) > 1:
        rates = captions.rates
        _console.say(
            f"{len(captions.items)} images in {rates['seconds']:.1f} s: "
            f"{rates['images_per_second']:.3g} images/s, {rates['passes_per_second']:,.0f} passes/s"
        )
