"""``fuse-index fit``: the adapters of a bundle again, from its group tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fuse_index.cli import _console
from fuse_index.cli.build import as_json, parse_grouping, parse_ridge, show

_KEPT = "  [default: as the bundle was built]"


def fit_command(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A bundle with group tensors; it is verified.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Folder to make.  [default: BUNDLE itself]"
        ),
    ] = None,
    grouping: Annotated[
        str | None,
        typer.Option(
            help=f"Words that share an adapter: same (p, q): pair; same q: target.{_KEPT}"
        ),
    ] = None,
    ridge: Annotated[
        str | None,
        typer.Option(help=f"Penalty, relative; or 'auto' by cross-validation.{_KEPT}"),
    ] = None,
    min_group: Annotated[
        int | None,
        typer.Option(help=f"Groups with fewer words use the fallback adapter.{_KEPT}"),
    ] = None,
    max_group: Annotated[
        int | None,
        typer.Option(help=f"Fit on so many words of a group, sampled; 0: on all.{_KEPT}"),
    ] = None,
    holdout: Annotated[
        float | None, typer.Option(help=f"Share of words kept for the quality report.{_KEPT}")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help=f"Seed of the hold-out and of sampling.{_KEPT}")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing bundle.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the same fit, which was interrupted.")
    ] = False,
    work_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for unfinished work.  [default: beside --out]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Fit the adapters of BUNDLE again with other options, without its models.

    Reads words and group tensors only, checks their checksums first, and writes the bundle that
    a build with these options gives, byte for byte; word indexes are carried over. The bundle may
    be larger than memory.
    """
    from fuse_index.build import fit_bundle
    from fuse_index.build.fitting import recorded_options
    from fuse_index.bundle import read_manifest

    given: dict[str, Any] = {
        "grouping": None if grouping is None else parse_grouping(grouping),
        "ridge": None if ridge is None else parse_ridge(ridge),
        "min_words": min_group,
        "max_words": max_group,
        "holdout": holdout,
        "seed": seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if max_group == 0:
        changes["max_words"] = None
    options = replace(recorded_options(read_manifest(bundle)), **changes)
    with _console.ProgressBar() as bar:
        result = fit_bundle(
            bundle,
            out,
            options,
            overwrite=overwrite,
            work_dir=work_dir,
            resume=resume,
            progress=bar,
        )
    for note in result.notes:
        _console.note(f"note: {note}")
    if json:
        _console.print_json(as_json(result))
    else:
        show(result)
