"""``fuse-index build``: corpus and two models in, a bundle out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console
from fuse_index.cli._words import (
    CorpusFlag,
    EncodingFlag,
    GroupingFlag,
    GroupsFlag,
    HoldoutFlag,
    JsonFlag,
    LowercaseFlag,
    MaxGroupFlag,
    MaxTokensFlag,
    MaxWordsFlag,
    MinCountFlag,
    MinGroupFlag,
    OfflineFlag,
    OverwriteFlag,
    ResumeFlag,
    RidgeFlag,
    SeedFlag,
    WordsFlag,
    WorkDirFlag,
    corpus_options,
    fit_changes,
)

if TYPE_CHECKING:
    from fuse_index.build import BuildResult

MODEL_HELP = "Hub id[@revision], folder, or open_clip:ARCH[/PRETRAINED or file]."


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
    corpus: CorpusFlag = None,
    words: WordsFlag = None,
    encoding: EncodingFlag = "utf-8",
    min_count: MinCountFlag = None,
    max_words: MaxWordsFlag = None,
    lowercase: LowercaseFlag = False,
    max_tokens: MaxTokensFlag = 4,
    grouping: GroupingFlag = "pair",
    ridge: RidgeFlag = "auto",
    min_group: MinGroupFlag = 10,
    max_group: MaxGroupFlag = 0,
    holdout: HoldoutFlag = 0.1,
    seed: SeedFlag = 0,
    groups: GroupsFlag = True,
    index: Annotated[
        str | None,
        typer.Option(
            "--index",
            metavar="KIND",
            help="Add a word index: auto, flat, tokens or pq.",
        ),
    ] = None,
    index_model: Annotated[
        str, typer.Option(help="Over whose vectors: source, target or joint.")
    ] = "target",
    overwrite: OverwriteFlag = False,
    resume: ResumeFlag = False,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Keep to so much memory, such as 2G.  [default: free]"),
    ] = None,
    work_dir: WorkDirFlag = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Do the shards on a Ray cluster; without an address on the one that runs, or "
            "one started here.",
        ),
    ] = None,
    offline: OfflineFlag = False,
    json: JsonFlag = False,
) -> None:
    """Build an adapter bundle from text and two models.

    Counts the words of the text, tokenizes them under both tokenizers, fits one t-product
    least-squares adapter per word group, and writes everything to the folder BUNDLE, complete or
    not at all. The same inputs give the same bytes, interrupted and resumed or not, on one machine
    or a cluster. Corpus and words may be larger than memory.
    """
    from fuse_index.adapter import FitOptions
    from fuse_index.build import BuildOptions, IndexModel, Resources, build_bundle
    from fuse_index.build.forecast.memory import parse_bytes
    from fuse_index.common.reading import choose
    from fuse_index.index import IndexOptions, Kind
    from fuse_index.words.table import TableOptions

    changes = fit_changes(
        grouping=grouping,
        ridge=ridge,
        min_group=min_group,
        max_group=max_group,
        holdout=holdout,
        seed=seed,
    )
    options = BuildOptions(
        corpus_options(
            words,
            encoding=encoding,
            min_count=min_count,
            max_words=max_words,
            lowercase=lowercase,
        ),
        TableOptions(max_tokens),
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
            corpus or (),
            word_list=words,
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
    if json:
        _console.print_json(as_json(result))
    else:
        _show(result)


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
    from fuse_index.bundle.card import index_rows, number, quality_rows

    manifest = result.manifest
    if manifest.quality:
        header, rows = quality_rows(manifest)
        _console.print_table(header, rows, title="Quality on held-out words")
    if manifest.indexes:
        header, rows = index_rows(manifest)
        _console.print_table(header, rows, title="Word indexes")
    if manifest.left_out:
        _console.print_table(
            ["", ""],
            [[reason, number(count)] for reason, count in manifest.left_out.items()],
            title="Words left out",
        )
    stages = ", ".join(f"{stage.value} {time:.1f}" for stage, time in result.seconds.items())
    typer.echo(
        _console.clean(
            f"{result.path}: {manifest.words:,} words, "
            f"{sum(record.size for record in manifest.files.values()) / 1e6:,.1f} MB, "
            f"{result.total_seconds:.1f} s ({stages})"
        )
    )
