"""``fuse-index build``: corpus and two models in, a bundle out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console, _flags
from fuse_index.cli._flags import MODEL_HELP
from fuse_index.cli._words import TextFlags, fit_changes
from fuse_index.cli.inspect import show_quality

if TYPE_CHECKING:
    from fuse_index.build import BuildResult


@_flags.with_flags
def build_command(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help=f"Model whose tokens are optimized: {MODEL_HELP}"),
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help=f"Model whose loss is differentiated: {MODEL_HELP}"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.", metavar="BUNDLE")],
    text: TextFlags,
    kind: _flags.Kind = "circulant",
    grouping: _flags.Grouping = "pair",
    ridge: _flags.Ridge = "auto",
    min_group: _flags.MinGroup = 10,
    max_group: _flags.MaxGroup = 0,
    holdout: _flags.Holdout = 0.1,
    seed: _flags.FitSeed = 0,
    groups: _flags.Groups = True,
    index: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Add a word index: auto, flat, tokens or pq."),
    ] = None,
    index_model: _flags.Vectors = "target",
    overwrite: _flags.Overwrite = False,
    resume: _flags.Resume = False,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Keep to so much memory, such as 2G.  [default: free]"),
    ] = None,
    work_dir: _flags.WorkDir = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Do the shards on a Ray cluster; without an address on the one that runs, or "
            "one started here.",
        ),
    ] = None,
    offline: _flags.Offline = False,
    json: _flags.Json = False,
) -> None:
    """Build an adapter bundle from text and two models.

    Counts the words of the text, tokenizes them under both tokenizers, fits one map per word group
    (by default a t-product, by least squares), and writes everything to the folder BUNDLE, complete
    or not at all. The same inputs give the same bytes, interrupted and resumed or not, on one
    machine or a cluster. Corpus and words may be larger than memory.
    """
    from fuse_index.adapter import FitOptions
    from fuse_index.build import BuildOptions, IndexModel, Resources, build_bundle
    from fuse_index.build.forecast.memory import parse_bytes
    from fuse_index.common.reading import choose
    from fuse_index.index import IndexOptions, Kind

    changes = fit_changes(
        kind=kind,
        grouping=grouping,
        ridge=ridge,
        min_group=min_group,
        max_group=max_group,
        holdout=holdout,
        seed=seed,
    )
    options = BuildOptions(
        *text.options(),
        replace(FitOptions(), **changes),
        groups,
        None if index is None else IndexOptions(choose(Kind, index, "--index")),
        choose(IndexModel, index_model, "--index-model"),
    )
    limit = None if max_memory is None else parse_bytes(max_memory)
    with _console.ProgressBar() as bar:
        result = build_bundle(
            source,
            target,
            out,
            text.corpus or (),
            word_list=text.words,
            nested=not text.flat,
            options=options,
            overwrite=overwrite,
            local_files_only=offline,
            progress=bar,
            resources=Resources(limit, work_dir, resume, ray),
        )
    report(result, json=json)


def report(result: BuildResult, *, json: bool) -> None:
    """Write the result of a build or a fit, and its notes."""
    for note in result.notes:
        _console.note(f"note: {note}")
    _console.answer(json, as_json(result), lambda: _show(result))


def as_json(result: BuildResult) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    manifest = result.manifest
    quality = manifest.quality
    return {
        "bundle": str(result.path),
        "words": manifest.words,
        "counted": result.counted,
        "left_out": manifest.left_out,
        "identity": manifest.identity,
        "groups": {
            name: {
                "words": report["words"] + report["held_out"],
                "relative_error": report["relative_error"],
                "cosine": report["cosine"],
                "baseline_error": report["baseline_error"],
                "baseline_cosine": report["baseline_cosine"],
                "fallback": name in manifest.fallbacks,
                "kind": manifest.kind_of("fallback" if name in manifest.fallbacks else name),
            }
            for name, report in quality.items()
        },
        "indexes": manifest.indexes,
        "seconds": round(result.total_seconds, 3),
        "stages": {stage.value: round(time, 3) for stage, time in result.seconds.items()},
        "bytes": sum(record.size for record in manifest.files.values()),
        "notes": result.notes,
    }


def _show(result: BuildResult) -> None:
    manifest = result.manifest
    show_quality(manifest)
    rows = [[reason, f"{count:,}"] for reason, count in manifest.left_out.items()]
    _console.print_table(["", ""], rows, "Words left out")
    stages = ", ".join(f"{stage.value} {time:.1f}" for stage, time in result.seconds.items())
    size = sum(record.size for record in manifest.files.values()) / 1e6
    words = f"{result.path}: {manifest.words:,} words, {size:,.1f} MB"
    _console.say(f"{words}, {result.total_seconds:.1f} s ({stages})")
