"""``fuse-index push``: publish a bundle on the Hub, in a bucket, or in another folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console
from fuse_index.cli._storage import Groups, Index, Json, Overwrite, Storage, storage_options

if TYPE_CHECKING:
    from fuse_index.share import Pushed


def push_command(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A folder that 'fuse-index build' made.")
    ],
    to: Annotated[
        str,
        typer.Argument(
            metavar="HUB-ID|URL",
            help="owner/name[@branch] of the Hub, a URL such as s3://bucket/folder, or a folder.",
        ),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository of the Hub private.")
    ] = False,
    license: Annotated[
        str | None,
        typer.Option("--license", help="For the card, such as mit, apache-2.0 or other."),
    ] = None,
    groups: Groups = True,
    index: Index = True,
    overwrite: Overwrite = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Publish BUNDLE after checking all of it.

    On the Hub it is one commit to a repository that is made where it is missing; the card says how
    to load it from there. The token is the one of 'hf auth login', or HF_TOKEN. At a URL the
    manifest comes last, so that half a bundle is never taken for a whole one.
    """
    from fuse_index.share import PushOptions, push

    options = PushOptions(private, license, groups, index, overwrite)
    with _console.ProgressBar() as bar:
        bar("sending", 0, None)
        done = push(
            bundle,
            to,
            options,
            storage_options=storage_options(storage),
            progress=bar.stage("sending"),
        )
    for note in done.notes:
        _console.note(f"note: {note}")
    if json:
        _console.print_json(as_json(bundle, done))
    else:
        size = sum(record.size for record in done.manifest.files.values()) / 1e6
        typer.echo(_console.clean(f"{done.url}: {size:,.1f} MB, revision {done.revision[:12]}"))


def as_json(bundle: Path, done: Pushed) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "bundle": str(bundle),
        "place": str(done.place),
        "url": done.url,
        "revision": done.revision,
        "files": sorted(done.manifest.files),
        "bytes": sum(record.size for record in done.manifest.files.values()),
        "notes": done.notes,
    }
