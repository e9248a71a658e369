"""``fuse-index evaluate``: the standard caption metrics on files in COCO's formats."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import fuse_index
from fuse_index.cli import _console, _flags, _run
from fuse_index.errors import MissingDependencyError, OptionError, StorageError

if TYPE_CHECKING:
    from fuse_index.evaluate import BootstrapOptions, CaptionMetric, Score, Tokenization
    from fuse_index.evaluate.coco import CaptionPairs, References


def evaluate_command(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS", help='COCO results: [{"image_id": 1, "caption": "..."}, ...]'
        ),
    ],
    references: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCES", help='COCO annotations: {"images": [...], "annotations": [...]}'
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="bleu, meteor, rouge, cider, spice or clipscore; repeatable.  [default: all]",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="ptb (COCO's, needs Java) or plain.  [default: ptb where Java is]"),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, for CLIPScore.", metavar="FOLDER")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="CLIP model, for CLIPScore.", metavar="MODEL")
    ] = None,
    clip_prompt: Annotated[
        str, typer.Option(help="What CLIPScore puts before every caption.")
    ] = "A photo depicts ",
    predicted_only: Annotated[
        bool,
        typer.Option("--predicted-only", help="Leave images without a prediction out."),
    ] = False,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the intervals.")] = 2000,
    seed: Annotated[int, typer.Option(help="Decides the resamples.")] = 0,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="File for the scores of every image.", metavar="FILE"),
    ] = None,
    device: _flags.Device = None,
    batch_size: _flags.BatchSize = 64,
    offline: _flags.Offline = False,
    json: _flags.Json = False,
) -> None:
    """Score predicted captions against reference captions.

    BLEU-1 to BLEU-4, METEOR, ROUGE-L, CIDEr-D and SPICE by pycocoevalcap (pip install
    'fuse-index[metrics]'), CLIPScore and RefCLIPScore by a CLIP of your choice; each with a 95 %
    bootstrap interval over images. METEOR, SPICE and COCO's PTB tokenizer need Java, SPICE also
    Stanford CoreNLP, which is never downloaded here: what is missing is left out and named, the
    rest is computed. The exit code is 2 where a metric asked for with --metric is left out.
    """
    from fuse_index.common.reading import choose
    from fuse_index.evaluate import BootstrapOptions, Tokenization
    from fuse_index.evaluate.coco import pair, read_predictions, read_references

    metrics = _metrics(metric, images, clip)
    words = None if tokenizer is None else choose(Tokenization, tokenizer, "--tokenizer")
    options = BootstrapOptions(resamples, seed=seed)
    _run.require_writable(csv_file, "--csv")
    with _console.ProgressBar() as bar:
        bar("reading captions", 0, None)
        known = read_references(references)
        pairs = pair(read_predictions(predictions), known, predicted_only=predicted_only)
        eyes = _Eyes(images, clip, clip_prompt, device, batch_size, offline)
        result = _score(pairs, known, metrics, words=words, eyes=eyes, bar=bar)
        bar("bootstrap", 0, None)
        report = _report(result, pairs, options, eyes)
    if csv_file is not None:
        _write_csv(csv_file, pairs, result.scores)
        _console.note(f"scores of every image: {csv_file}")
    if json:
        paths = {"predictions": str(predictions), "references": str(references)}
        _console.print_json({**paths, **report})
    else:
        _show(report)
    if metric and result.left_out:
        _console.error(_console.one_line("left out: " + "; ".join(result.left_out.values())))
        raise typer.Exit(2)


@dataclass(frozen=True)
class _Eyes:
    """What CLIPScore needs."""

    folder: Path | None
    model: str | None
    prompt: str
    device: str | None
    batch_size: int
    offline: bool


@dataclass(frozen=True)
class _Result:
    """All scores, by name, what was left out, and on which words."""

    scores: dict[str, Score]
    left_out: dict[str, str]
    tokenization: Tokenization | None


def _metrics(
    names: Sequence[str] | None, images: Path | None, clip: str | None
) -> list[CaptionMetric]:
    """Return what is asked for; by default all texts' metrics, and CLIP's where it is given."""
    from fuse_index.common.reading import choose
    from fuse_index.evaluate.captions import TEXT_METRICS, CaptionMetric

    asked = {choose(CaptionMetric, name, "--metric") for name in names or ()}
    if (images is None) != (clip is None):
        given, other = ("--images", "--clip") if clip is None else ("--clip", "--images")
        raise OptionError(f"{given} without {other}", expected="both, for CLIPScore, or neither")
    if not names:
        return [*TEXT_METRICS, *([CaptionMetric.CLIPSCORE] if clip is not None else [])]
    metrics = [item for item in CaptionMetric if item in asked]
    if CaptionMetric.CLIPSCORE in metrics and clip is None:
        raise OptionError("--metric clipscore", expected="--images FOLDER and --clip MODEL with it")
    if clip is not None and CaptionMetric.CLIPSCORE not in metrics:
        raise OptionError("--clip", expected="--metric clipscore, or no --metric at all, with it")
    return metrics


def _score(
    pairs: CaptionPairs,
    known: References,
    metrics: Sequence[CaptionMetric],
    *,
    words: Tokenization | None,
    eyes: _Eyes,
    bar: _console.ProgressBar,
) -> _Result:
    from fuse_index.evaluate.captions import CaptionMetric, CaptionOptions, score_captions
    from fuse_index.evaluate.coco import image_paths

    by_text = tuple(metric for metric in metrics if metric is not CaptionMetric.CLIPSCORE)
    paths = None
    if CaptionMetric.CLIPSCORE in metrics:
        assert eyes.folder is not None
        paths = image_paths(eyes.folder, known, pairs.ids)
    scores: dict[str, Score] = {}
    left_out: dict[str, str] = {}
    tokenization = None
    if by_text:
        options = CaptionOptions(by_text, words)
        report = score_captions(pairs.candidates, pairs.references, options, bar)
        scores, tokenization = report.scores, report.tokenization
        left_out = {metric.value: reason for metric, reason in report.left_out.items()}
    if paths is not None:
        scores = {**scores, **_clip_scores(pairs, paths, eyes, bar)}
    if not scores:
        reasons = dict.fromkeys(left_out.values())
        raise MissingDependencyError("no metric can be computed: " + "; ".join(reasons))
    return _Result(scores, left_out, tokenization)


def _clip_scores(
    pairs: CaptionPairs, paths: Sequence[Path], eyes: _Eyes, bar: _console.ProgressBar
) -> dict[str, Score]:
    from fuse_index.evaluate import score_clip
    from fuse_index.models import load_model

    assert eyes.model is not None
    bar("loading CLIP", 0, None)
    model = load_model(eyes.model, kind="clip", device=eyes.device, local_files_only=eyes.offline)
    return score_clip(
        model,
        paths,
        pairs.candidates,
        pairs.references,
        prompt=eyes.prompt,
        batch_size=eyes.batch_size,
        progress=bar.stage("looking at pictures"),
    )


def _report(
    result: _Result, pairs: CaptionPairs, options: BootstrapOptions, eyes: _Eyes
) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    scores: dict[str, dict[str, float | None]] = {}
    for name, score in result.scores.items():
        interval = score.interval(options)
        ends = {"low": None, "high": None} if interval is None else asdict(interval)
        scores[name] = {"value": score.value, **ends}
    return {
        "images": len(pairs.ids),
        "reference_captions": sum(map(len, pairs.references)),
        "tokenization": result.tokenization,
        "scores": scores,
        "left_out": result.left_out,
        "bootstrap": asdict(options),
        "clip": None if eyes.model is None else {"model": eyes.model, "prompt": eyes.prompt},
        "versions": {"fuse-index": fuse_index.__version__, "pycocoevalcap": _installed()},
    }


def _installed() -> str | None:
    try:
        return version("pycocoevalcap")
    except PackageNotFoundError:
        return None


def _write_csv(path: Path, pairs: CaptionPairs, scores: Mapping[str, Score]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", "caption", *scores])
            for index, (image, caption) in enumerate(zip(pairs.ids, pairs.candidates, strict=True)):
                values = [repr(float(score.items[index])) for score in scores.values()]
                writer.writerow([image, caption, *values])
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error})",
            expected="a writable file",
            remedy="name another file",
        ) from error


def _show(report: Mapping[str, Any]) -> None:
    from fuse_index.evaluate import Tokenization

    rows = []
    for name, score in report["scores"].items():
        ends = "-" if score["low"] is None else f"{score['low']:.4f} to {score['high']:.4f}"
        rows.append([name, f"{score['value']:.4f}", ends])
    words = {
        Tokenization.PTB: ", PTB tokens",
        Tokenization.PLAIN: ", plain tokens (not COCO's: figures differ a little)",
        None: "",
    }[report["tokenization"]]
    title = f"{report['images']:,} images, {report['reference_captions']:,} references{words}"
    level = f"{report['bootstrap']['level']:.0%}".replace("%", " %")
    typer.echo(_console.clean(title) + "\n")
    _console.print_table(["metric", "value", f"{level} interval"], rows)
    if report["left_out"]:
        left_out = [[name, reason] for name, reason in report["left_out"].items()]
        _console.print_table(["left out", "why"], left_out, justify="left")
