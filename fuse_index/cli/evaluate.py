"""``fuse-index evaluate``: the standard caption metrics on files of predictions and references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import fuse_index
from fuse_index.cli import _console, _flags, _outputs
from fuse_index.common.bounds import MAX_SEED, MAX_WIDTH
from fuse_index.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    from fuse_index.evaluate import BootstrapOptions, CaptionMetric, Score
    from fuse_index.evaluate.coco import CaptionPairs
    from fuse_index.evaluate.structure import Tell


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
            metavar="REFERENCES",
            help="COCO annotations, a split file (Karpathy's, SentiCap's), captions by file name "
            "(JSON), or Flickr's lines.",
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
    split: Annotated[
        str | None,
        typer.Option(help="Split of a file that has some, or 'all'.  [default: test]"),
    ] = None,
    sentiment: Annotated[
        str | None,
        typer.Option(help="Take SentiCap's positive or negative references only."),
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
    resamples: Annotated[
        int, typer.Option(max=MAX_WIDTH, help="Bootstrap resamples of the intervals.")
    ] = 2000,
    seed: Annotated[int, typer.Option(max=MAX_SEED, help="Decides the resamples.")] = 0,
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
    Annotations of images that are not listed, images without captions, ids that stand twice and
    pictures that cannot be read are left out and named; the rest is scored.
    """
    from fuse_index.common.reading import choose
    from fuse_index.evaluate import BootstrapOptions, Tokenization
    from fuse_index.evaluate.captions import CaptionMetric, CaptionOptions, score_captions
    from fuse_index.evaluate.coco import image_paths, pair, read_predictions
    from fuse_index.evaluate.diversity import measure_diversity
    from fuse_index.evaluate.references import Polarity, read_references

    metrics = _metrics(metric, images, clip)
    by_text = tuple(item for item in metrics if item is not CaptionMetric.CLIPSCORE)
    words = None if tokenizer is None else choose(Tokenization, tokenizer, "--tokenizer")
    polarity = None if sentiment is None else choose(Polarity, sentiment, "--sentiment")
    options = BootstrapOptions(resamples, seed=seed)
    _outputs.require_writable(csv_file, "--csv")
    scores: dict[str, Score] = {}
    left_out: dict[str, str] = {}
    notes: list[str] = []
    tokenization = None
    with _console.ProgressBar() as bar:
        bar("reading captions", 0, None)
        tell = notes.append
        known = read_references(references, split=split, sentiment=polarity, tell=tell)
        found = read_predictions(predictions, tell=tell)
        pairs = pair(found, known, predicted_only=predicted_only, tell=tell)
        paths = None if images is None else image_paths(images, known, pairs.ids, tell=tell)
        if by_text:
            text_options = CaptionOptions(by_text, words)
            text = score_captions(pairs.candidates, pairs.references, text_options, bar)
            scores, tokenization = dict(text.scores), text.tokenization
            left_out = {item.value: reason for item, reason in text.left_out.items()}
        if clip is not None and paths is not None:
            scores |= _clip_scores(
                clip,
                pairs,
                paths,
                bar,
                prompt=clip_prompt,
                batch_size=batch_size,
                device=device,
                offline=offline,
                tell=tell,
            )
        if not scores:
            reasons = "; ".join(dict.fromkeys(left_out.values()))
            raise MissingDependencyError(f"no metric can be computed: {reasons}")
        bar("bootstrap", 0, None)
        intervals = {name: _with_interval(score, options) for name, score in scores.items()}
    report = {
        "predictions": str(predictions),
        "references": str(references),
        "split": known.split,
        "sentiment": sentiment,
        "images": len(pairs.ids),
        "reference_captions": sum(map(len, pairs.references)),
        "tokenization": tokenization,
        "scores": intervals,
        "diversity": asdict(measure_diversity(pairs.candidates)),
        "left_out": left_out,
        "notes": notes,
        "bootstrap": asdict(options),
        "clip": None if clip is None else {"model": clip, "prompt": clip_prompt},
        "versions": {"fuse-index": fuse_index.__version__, "pycocoevalcap": _installed()},
    }
    for note in notes:
        _console.note(f"fuse-index: warning: {note}")
    table = _outputs.csv_bytes(["image_id", "caption", *scores], _csv_rows(pairs, scores))
    unsaved = _outputs.save(table, csv_file, "--csv")
    if csv_file is not None and unsaved is None:
        _console.note(f"scores of every image: {csv_file}")
    _outputs.finish(json, report, lambda: _show(report), [unsaved])
    if metric and left_out:
        _console.error(_console.one_line("left out: " + "; ".join(left_out.values())))
        raise typer.Exit(2)


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


def _clip_scores(
    name: str,
    pairs: CaptionPairs,
    paths: Sequence[Path | None],
    bar: _console.ProgressBar,
    *,
    prompt: str,
    batch_size: int,
    device: str | None,
    offline: bool,
    tell: Tell,
) -> dict[str, Score]:
    """CLIPScore of the images that have a picture; NaN for the others."""
    import numpy as np

    from fuse_index.evaluate import mean_score, score_clip
    from fuse_index.models import load_model

    bar("loading CLIP", 0, None)
    has = [index for index, path in enumerate(paths) if path is not None]
    found = score_clip(
        load_model(name, kind="clip", device=device, local_files_only=offline),
        [path for path in paths if path is not None],
        [pairs.candidates[index] for index in has],
        [pairs.references[index] for index in has],
        prompt=prompt,
        batch_size=batch_size,
        progress=bar.stage("looking at pictures"),
        on_unreadable=lambda index, error: tell(f"image {pairs.ids[has[index]]!r}: {error}"),
    )
    scores = {}
    for metric, score in found.items():
        items = np.full(len(paths), np.nan)
        items[has] = score.items
        scores[metric] = mean_score(metric, items)
    return scores


def _with_interval(score: Score, options: BootstrapOptions) -> dict[str, float | None]:
    interval = score.interval(options)
    ends = {"low": None, "high": None} if interval is None else asdict(interval)
    return {"value": score.value, **ends}


def _installed() -> str | None:
    try:
        return version("pycocoevalcap")
    except PackageNotFoundError:
        return None


def _csv_rows(pairs: CaptionPairs, scores: Mapping[str, Score]) -> Iterator[list[Any]]:
    for index, (image, caption) in enumerate(zip(pairs.ids, pairs.candidates, strict=True)):
        values = [repr(float(score.items[index])) for score in scores.values()]
        yield [image, caption, *values]


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
    _console.say(title)
    _console.say()
    _console.print_table(["metric", "value", f"{level} interval"], rows)
    own = report["diversity"]
    _console.say(
        f"{own['vocabulary']:,} different words; distinct-1 {own['distinct_1']:.3f}, "
        f"distinct-2 {own['distinct_2']:.3f}; {own['captions']:.0%} of the captions differ"
    )
    _console.print_table(["left out", "why"], report["left_out"].items(), justify="left")
