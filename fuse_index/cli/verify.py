"""``fuse-index verify``: integrity of a bundle, and whether a rebuild gives its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuse_index.cli import _console, _flags
from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from fuse_index.build.rebuild import Rebuilt

DIFFERENT = 1


def verify_command(
    bundle: _flags.Bundle,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build it again and compare the bytes.")
    ] = False,
    source: _flags.SourcePlace = None,
    target: _flags.TargetPlace = None,
    corpus: _flags.Corpus = None,
    words: _flags.Words = None,
    offline: _flags.Offline = False,
    json: _flags.Json = False,
) -> None:
    """Check every file of BUNDLE; with --rebuild, build it again and compare file by file.

    Checksums, shapes, dtypes and values are checked without loading a model. --rebuild takes the
    options of the manifest, the models named in it (or --source and --target, which must have the
    same hashes), and the words of the bundle itself unless --corpus or --words names the text. Word
    indexes are chosen by measured time and are not built again. Exit code: 0 when all is well, 1
    when a rebuilt file differs, 2 when the bundle is damaged or cannot be built again.
    """
    from fuse_index.bundle import verify_bundle

    if not rebuild and (source or target or corpus or words):
        raise OptionError("--source, --target, --corpus or --words", expected="--rebuild with them")
    with _console.ProgressBar() as bar:
        manifest = verify_bundle(bundle, bar.stage("verifying"))
    if manifest.indexes:
        from fuse_index.index import verify_indexes

        verify_indexes(bundle)
    found = None
    if rebuild:
        from fuse_index.build.rebuild import rebuild_bundle

        with _console.ProgressBar() as bar:
            found = rebuild_bundle(
                bundle,
                source=source,
                target=target,
                corpus=corpus or (),
                word_list=words,
                local_files_only=offline,
                progress=bar,
            )
    report = {"bundle": str(bundle), "verified": True, "files": len(manifest.files)}
    report["rebuild"] = None if found is None else found.to_json()
    _console.answer(json, report, lambda: _show(bundle, len(manifest.files), found))
    if found is not None and not found.same:
        raise typer.Exit(DIFFERENT)


def _show(bundle: Path, files: int, found: Rebuilt | None) -> None:
    name = str(bundle)
    if found is None:
        _console.say(f"{name}: {files} files, every one is intact")
        return
    rows = [[file.name, file.outcome.value, file.note] for file in found.files]
    _console.print_table(["file", "", ""], rows, title="Built again", justify="left")
    for item in found.taken:
        _console.say(f"not tested, taken from the bundle: {item}")
    again = "and building it again gives " + ("the same" if found.same else "other")
    _console.say(f"{name}: every file is intact, {again} bytes")
