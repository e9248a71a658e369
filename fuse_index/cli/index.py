"""``fuse-index index``: a word index for a bundle that is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console
from fuse_index.cli._storage import Json, Offline

if TYPE_CHECKING:
    from fuse_index.build import IndexResult


def index_command(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A folder that 'fuse-index build' made.")
    ],
    kind: Annotated[
        str,
        typer.Option(help="auto, flat, tokens or pq."),
    ] = "auto",
    model: Annotated[
        str, typer.Option(help="Over whose vectors: source, target or joint.")
    ] = "target",
    metric: Annotated[str, typer.Option(help="ip (for gradients), cosine or l2.")] = "ip",
    representation: Annotated[
        str, typer.Option(help="A word of several tokens is their mean, or padded.")
    ] = "mean",
    recall: Annotated[
        float, typer.Option(help="Least share of the truly best words to find, for auto.")
    ] = 0.95,
    best: Annotated[int, typer.Option(help="How many best words the recall is about.")] = 100,
    seed: Annotated[int, typer.Option(help="Of training and of the sample queries.")] = 0,
    source: Annotated[
        str | None, typer.Option(help="Where the source is now, if not where it was built from.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Where the target is now, if not where it was built from.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where gradients are taken.  [default: the GPU if any]")
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Build a word index and put it into BUNDLE, in place of one over the same model.

    Approximate kinds are measured on gradients of the model's own loss at random texts; 'auto'
    takes the fastest that finds the share of the truly best words asked for. What was chosen and
    measured is in the manifest. The bundle is swapped for the new one in one step.
    """
    from fuse_index.build import IndexModel, index_bundle
    from fuse_index.index import IndexOptions, Kind, Metric, Representation
    from fuse_index.index.options import choose

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
    if json:
        _console.print_json(as_json(bundle, result))
    else:
        _show(bundle, result)


def as_json(bundle: Path, result: IndexResult) -> dict[str, Any]:
    """Return what ``--json`` prints: the report of the index, its name and its files."""
    return {
        "bundle": str(bundle),
        "index": result.name,
        "bytes_on_disk": _bytes_on_disk(result),
        **result.index.report,
    }


def _bytes_on_disk(result: IndexResult) -> int:
    prefix = f"index/{result.name}."
    files = result.manifest.files.items()
    return sum(record.size for name, record in files if name.startswith(prefix))


def _kind(trial: dict[str, Any]) -> str:
    reduced = f" in {size} dimensions" if (size := trial["reduced_to"]) else ""
    return f"{trial['kind']}{reduced}"


def _show(bundle: Path, result: IndexResult) -> None:
    report = result.index.report
    rows = [
        [
            _kind(trial),
            f"{trial['recall']:.3f}",
            f"{trial['seconds'] * 1e3:.2f}",
            f"{trial['bytes'] / 1e6:,.1f}",
        ]
        for trial in (report, *report["tried"])
    ]
    title = f"{report['words']:,} words of width {report['width']}, the first kind is taken"
    _console.print_table(
        ["kind", f"recall@{report['recall_at']}", "ms a query", "MB"], rows, title=title
    )
    size = _bytes_on_disk(result) / 1e6
    typer.echo(_console.clean(f"{bundle}: index {result.name!r}, {size:,.1f} MB on disk"))
