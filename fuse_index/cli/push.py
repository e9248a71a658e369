"""``fuse-index push``: publish a bundle on the Hub, in a bucket, or in another folder."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fuse_index.cli import _console, _flags


def push_command(
    bundle: _flags.Bundle,
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
    groups: _flags.Groups = True,
    index: _flags.Index = True,
    overwrite: _flags.Overwrite = False,
    storage: _flags.Storage = None,
    json: _flags.Json = False,
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
            storage_options=_flags.storage_options(storage),
            progress=bar.stage("sending"),
        )
    for note in done.notes:
        _console.note(f"note: {note}")
    report: dict[str, Any] = {
        "bundle": str(bundle),
        "place": str(done.place),
        "url": done.url,
        "revision": done.revision,
        "files": sorted(done.manifest.files),
        "bytes": sum(record.size for record in done.manifest.files.values()),
        "notes": done.notes,
    }
    line = f"{done.url}: {report['bytes'] / 1e6:,.1f} MB, revision {done.revision[:12]}"
    _console.answer(json, report, lambda: _console.say(line))
