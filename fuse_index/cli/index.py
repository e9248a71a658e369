"""``fuse-index index``: a word index for a bundle that is there."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fuse_index.cli import _console, _flags
from fuse_index.common.bounds import MAX_SEED, MAX_WIDTH


def index_command(
    bundle: _flags.Bundle,
    kind: Annotated[str, typer.Option(help="auto, flat, tokens or pq.")] = "auto",
    model: _flags.Vectors = "target",
    metric: Annotated[str, typer.Option(help="ip (for gradients), cosine or l2.")] = "ip",
    representation: Annotated[
        str, typer.Option(help="A word of several tokens is their mean, or padded.")
    ] = "mean",
    recall: Annotated[
        float, typer.Option(help="Least share of the truly best words to find, for auto.")
    ] = 0.95,
    best: Annotated[
        int, typer.Option(max=MAX_WIDTH, help="How many best words the recall is about.")
    ] = 100,
    seed: Annotated[
        int, typer.Option(max=MAX_SEED, help="Of training and of the sample queries.")
    ] = 0,
    source: _flags.SourcePlace = None,
    target: _flags.TargetPlace = None,
    device: _flags.Device = None,
    offline: _flags.Offline = False,
    json: _flags.Json = False,
) -> None:
    """Build a word index and put it into BUNDLE, in place of one over the same model.

    Approximate kinds are measured on gradients of the model's own loss at random texts; 'auto'
    takes the fastest that finds the share of the truly best words asked for. What was chosen and
    measured is in the manifest. The bundle is swapped for the new one in one step.
    """
    from fuse_index.build import IndexModel, index_bundle
    from fuse_index.common.reading import choose
    from fuse_index.index import IndexOptions, Kind, Metric, Representation

    options = IndexOptions(
        kind=choose(Kind, kind, "--kind"),
        metric=choose(Metric, metric, "--metric"),
        representation=choose(Representation, representation, "--representation"),
        recall=recall,
        top_k=best,
        seed=seed,
    )
    with _console.ProgressBar() as bar:
        result = index_bundle(
            bundle,
            choose(IndexModel, model, "--model"),
            options,
            names={"source": source, "target": target},
            device=device,
            local_files_only=offline,
            progress=bar.stage("building the word index"),
        )
    files = result.manifest.files.items()
    size = sum(record.size for name, record in files if name.startswith(f"index/{result.name}."))
    found = {"bundle": str(bundle), "index": result.name, "bytes_on_disk": size}
    report = found | result.index.report
    _console.answer(json, report, lambda: _show(report))


def _show(report: dict[str, Any]) -> None:
    rows = [
        [
            trial["kind"] + (f" in {width} dimensions" if (width := trial["reduced_to"]) else ""),
            f"{trial['recall']:.3f}",
            f"{trial['seconds'] * 1e3:.2f}",
            f"{trial['bytes'] / 1e6:,.1f}",
        ]
        for trial in (report, *report["tried"])
    ]
    title = f"{report['words']:,} words of width {report['width']}, the first kind is taken"
    header = ["kind", f"recall@{report['recall_at']}", "ms a query", "MB"]
    _console.print_table(header, rows, title)
    size = f"{report['bytes_on_disk'] / 1e6:,.1f} MB on disk"
    _console.say(f"{report['bundle']}: index {report['index']!r}, {size}")
