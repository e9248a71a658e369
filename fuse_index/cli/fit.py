"""``fuse-index fit``: the adapters of a bundle again, from its group tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fuse_index.cli import _console, _flags
from fuse_index.cli._words import fit_changes
from fuse_index.cli.build import report


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
    kind: _flags.Kind = None,
    grouping: _flags.Grouping = None,
    ridge: _flags.Ridge = None,
    min_group: _flags.MinGroup = None,
    max_group: _flags.MaxGroup = None,
    holdout: _flags.Holdout = None,
    seed: _flags.FitSeed = None,
    overwrite: _flags.Overwrite = False,
    resume: _flags.Resume = False,
    work_dir: _flags.WorkDir = None,
    json: _flags.Json = False,
) -> None:
    """Fit the adapters of BUNDLE again with other options, without its models.

    Reads words and group tensors only, checks their checksums first, and writes the bundle that
    a build with these options gives, byte for byte; word indexes are carried over. Options that
    are not given stay as the bundle was built. The bundle may be larger than memory.
    """
    from fuse_index.build import fit_bundle
    from fuse_index.build.fitting import recorded_options
    from fuse_index.bundle import read_manifest

    changes = fit_changes(
        kind=kind,
        grouping=grouping,
        ridge=ridge,
        min_group=min_group,
        max_group=max_group,
        holdout=holdout,
        seed=seed,
    )
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
    report(result, json=json)
