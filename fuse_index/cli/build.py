"""``fuse-index build``: corpus and two models in, a bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fuse_index.cli import _console
from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from fuse_index.build import BuildOptions, BuildResult

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
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            "-c",
            metavar="PATH",
            help="Text, gzip or Parquet: file, folder, pattern or fsspec URL (s3://...); '-' is "
            "standard input. Can be repeated.",
        ),
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option("--words", help="A list of words, one a line, instead of a corpus."),
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of the text.")] = "utf-8",
    min_count: Annotated[
        int | None,
        typer.Option(help="Leave out words seen fewer times.  [default: 2; 1 with --words]"),
    ] = None,
    max_words: Annotated[
        int | None, typer.Option(help="Keep so many words, the most frequent.  [default: all]")
    ] = None,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Lower-case every word.")] = False,
    max_tokens: Annotated[
        int, typer.Option(help="Leave out words of more tokens in either model.")
    ] = 4,
    grouping: Annotated[
        str, typer.Option(help="Words that share an adapter: same (p, q): pair; same q: target.")
    ] = "pair",
    ridge: Annotated[
        str, typer.Option(help="Penalty, relative; or 'auto' by generalized cross-validation.")
    ] = "auto",
    min_group: Annotated[
        int | None,
        typer.Option(help="Groups with fewer words use the fallback adapter.  [default: 10]"),
    ] = None,
    max_group: Annotated[
        int | None, typer.Option(help="Fit on so many words of a group, sampled.  [default: all]")
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Share of words kept for the quality report.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the hold-out and of sampling.")] = 0,
    groups: Annotated[
        bool, typer.Option("--groups/--no-groups", help="Write the group tensors too.")
    ] = True,
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing bundle.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from a build of the same that was interrupted."),
    ] = False,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Keep to so much memory, such as 2G.  [default: free]"),
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where unfinished work is kept.  [default: beside BUNDLE]"
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Do the shards on a Ray cluster; without an address on the one that runs, or "
            "one started here.",
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the Hub.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Build an adapter bundle from text and two models.

    Counts the words of the text, tokenizes them under both tokenizers, fits one t-product
    least-squares adapter per word group, and writes everything to the folder BUNDLE, complete or
    not at all. The same inputs give the same bytes, however often it was interrupted and resumed,
    and whoever did the work. Corpus and words may be larger than the memory.
    """
    from fuse_index.build import Resources, build_bundle
    from fuse_index.build.memory import parse_bytes

    if min_count is None:
        min_count = 1 if words is not None else None
    options = _options(
        corpus={
            "encoding": encoding,
            "lowercase": lowercase,
            "min_count": min_count,
            "max_words": max_words,
        },
        table={"max_tokens": max_tokens},
        fit={
            "grouping": grouping,
            "ridge": _ridge(ridge),
            "min_words": min_group,
            "max_words": max_group,
            "holdout": holdout,
            "seed": seed,
        },
        groups=groups,
        index=(index, index_model),
    )
    limit = None if max_memory is None else parse_bytes(max_memory)
    resources = Resources(limit, work_dir, resume, ray)
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
            resources=resources,
        )
    for note in result.notes:
        _console.note(f"note: {note}")
    if json:
        _console.print_json(as_json(result))
    else:
        _show(result)


def _options(
    corpus: dict[str, Any],
    table: dict[str, Any],
    fit: dict[str, Any],
    groups: bool,
    index: tuple[str | None, str],
) -> BuildOptions:
    """Turn the flags into options; a flag that was not given keeps the option's own default."""
    from fuse_index.adapter import FitOptions, Grouping
    from fuse_index.build import DEFAULT_MIN_COUNT, BuildOptions, IndexModel
    from fuse_index.index import IndexOptions, Kind
    from fuse_index.index.options import choose
    from fuse_index.words.corpus.words import CorpusOptions
    from fuse_index.words.table import TableOptions

    names = [item.value for item in Grouping]
    if fit["grouping"] not in names:
        raise OptionError(f"--grouping {fit['grouping']}", expected=f"one of {', '.join(names)}")
    fit["grouping"] = Grouping(fit["grouping"])
    if corpus["min_count"] is None:
        corpus["min_count"] = DEFAULT_MIN_COUNT
    return BuildOptions(
        CorpusOptions(**_given(corpus)),
        TableOptions(**_given(table)),
        FitOptions(**_given(fit)),
        groups,
        None if index[0] is None else IndexOptions(Kind(choose(Kind, index[0], "--index"))),
        IndexModel(choose(IndexModel, index[1], "--index-model")),
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _ridge(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--ridge {text}", expected="a number of at least 0, or auto") from None


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
