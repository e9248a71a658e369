"""``fuse-index caption``: images in, captions out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console, _flags, _outputs, _run
from fuse_index.cli._flags import MODEL_HELP
from fuse_index.errors import FuseIndexError, ImageError

if TYPE_CHECKING:
    from fuse_index.optimize import Result
    from fuse_index.optimize.optimize import Callback
    from fuse_index.run import CaptionConfig
    from fuse_index.run.captions import Caption, Captioner, Captions


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
    found = _images(images or (), nested)
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
    captions = _caption_all(captioner, dict(zip(found, states, strict=True)), flags, files)
    _outputs.finish(flags.json, captions.to_json(), partial(_show, captions), files(captions))
    for item in captions.items:
        _run.stop_if_interrupted(item.result)


def _config(file: Path | None, settings: list[tuple[str, Any]]) -> CaptionConfig:
    from fuse_index.run.captions import read_captions

    value = _run.read_file(file)
    _flags.put(value, settings)
    return read_captions(value)


def _images(given: Sequence[Path], nested: bool) -> list[str]:
    """All images, folders replaced by what is in them; each can be read."""
    from fuse_index.models.images import open_image
    from fuse_index.run import find_images

    if not given:
        raise ImageError("no image", expected="image files, or folders of images")
    found = [str(path) for path in find_images(given, nested=nested)]
    for path in found:
        open_image(path)
    return found


def _caption_all(
    captioner: Captioner,
    states: Mapping[str, Path | None],
    flags: _flags.RunFlags,
    save: Callable[[Captions], list[_outputs.Unsaved | None]],
) -> Captions:
    """Caption one image after another; what is done is kept whatever happens to the rest."""
    from fuse_index.optimize import Stop
    from fuse_index.run.captions import Caption, Captions

    done: list[Caption] = []

    def write(image: str, callbacks: Sequence[Callback]) -> Result:
        return captioner.caption(image, callbacks, states[image], flags.checkpoint_every).result

    def failed(image: str, result: Result) -> None:
        done.append(Caption(image, result))

    resuming = any(path is not None and path.exists() for path in states.values())
    try:
        with _run.Output(captioner.config.budget, flags.events, append=resuming) as output:
            for index, image in enumerate(states):
                output.about(f"{image} ({index + 1} of {len(states)})", image=image)
                result = output.watch(partial(write, image), on_failure=partial(failed, image))
                done.append(Caption(image, result))
                if result.stop is Stop.INTERRUPTED:
                    break
    except BaseException as error:
        captions = Captions(tuple(done))
        if isinstance(error, FuseIndexError):
            error.result = captions
        if done and not flags.json:
            _outputs.finish_failed(partial(_show, captions), save(captions))
        elif done:
            save(captions)
        raise
    return Captions(tuple(done))


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
        html = report_html(captions_page(captioner, captions.items))
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
