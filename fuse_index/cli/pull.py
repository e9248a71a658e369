"""``fuse-index pull``: fetch a bundle from the Hub, a bucket or another folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fuse_index.cli import _console, _flags


def pull_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="HUB-ID[@REVISION]|URL",
            help="owner/name of the Hub, a URL such as s3://bucket/folder, or a folder.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder to make.  [default: the cache]"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the Hub, as after the @.")
    ] = None,
    groups: _flags.Groups = True,
    index: _flags.Index = True,
    overwrite: _flags.Overwrite = False,
    offline: _flags.Offline = False,
    storage: _flags.Storage = None,
    json: _flags.Json = False,
) -> None:
    """Fetch a bundle and check all of it.

    All files are of one revision, and each is checked against the manifest before it is used. They
    go into the cache, where Adapter.from_pretrained("owner/name") finds them, also offline; with
    --out they are linked (copied, on another disk) from there to FOLDER, which appears complete or
    not at all. After a failure the next pull fetches what is missing.
    """
    from fuse_index.share import pull

    with _console.ProgressBar() as bar:
        bar("fetching", 0, None)
        done = pull(
            name,
            out,
            revision=revision,
            groups=groups,
            index=index,
            overwrite=overwrite,
            storage_options=_flags.storage_options(storage),
            local_files_only=offline,
            progress=bar.stage("fetching"),
        )
    if done.missing:
        left = ", ".join(done.missing)
        _console.note(f"note: not in the cache: {left}; --out FOLDER makes a bundle without them")
    files = sorted(set(done.manifest.files) - set(done.missing))
    report = {
        "bundle": str(done.path),
        "place": str(done.place),
        "revision": done.revision,
        "words": done.manifest.words,
        "files": files,
        "missing": done.missing,
        "bytes": sum(done.manifest.files[name].size for name in files),
    }
    words = f"{done.path}: {done.manifest.words:,} words"
    line = f"{words}, revision {done.revision[:12]}, every file is intact"
    _console.answer(json, report, lambda: _console.say(line))
