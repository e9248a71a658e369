"""``fuse-index inspect``: contents, quality and integrity of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuse_index.cli import _console, _flags

if TYPE_CHECKING:
    from fuse_index.bundle import Manifest


def inspect_command(
    bundle: _flags.Bundle,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Check checksums, shapes and values of every file."
        ),
    ] = True,
    json: _flags.Json = False,
) -> None:
    """Show what is in a bundle and how good it is, and verify it.

    Reads BUNDLE without loading any model. A file that is damaged, missing or not listed in the
    manifest is an error (exit code 2) that names it; --no-verify shows the manifest all the same.
    """
    from fuse_index.bundle import read_manifest, verify_bundle

    if verify:
        with _console.ProgressBar() as bar:
            manifest = verify_bundle(bundle, bar.stage("verifying"))
        if manifest.indexes:
            from fuse_index.index import verify_indexes

            verify_indexes(bundle)
    else:
        manifest = read_manifest(bundle)
    report = {
        "bundle": str(bundle),
        "verified": verify,
        "words": manifest.words,
        "bytes": sum(record.size for record in manifest.files.values()),
        "manifest": manifest.to_json(),
    }
    _console.answer(json, report, lambda: _show(bundle, manifest, verify))


def _show(bundle: Path, manifest: Manifest, verified: bool) -> None:
    from fuse_index.bundle.card import kind_rows, number

    models = (manifest.source, manifest.target)
    kind = "identity of one model" if manifest.identity else "adapter"
    _console.say(f"{bundle}: {kind}, {manifest.words:,} words")
    _console.print_table(
        ["", "source", "target"],
        [
            ["model", *(model.name for model in models)],
            ["revision", *(model.revision[:12] or "-" for model in models)],
            ["embeddings", *(f"{m.vocabulary_size:,} x {m.width}" for m in models)],
            ["tokenizer", *(model.tokenizer_hash[:12] for model in models)],
            ["embedding hash", *(model.embedding_hash[:12] for model in models)],
        ],
    )
    _console.print_table(["group", "words"], [[g.name, number(g.words)] for g in manifest.groups])
    show_quality(manifest)
    if manifest.kinds:
        _console.print_table(*kind_rows(manifest), "Kinds of maps, errors they were chosen by")
    for title, pairs in (
        ("Served by the fallback adapter", manifest.fallbacks),
        ("Words left out", manifest.left_out),
        ("Built with", manifest.options),
    ):
        rows = [[key, number(value)] for key, value in pairs.items()]
        _console.print_table(["", ""], rows, title, justify="left")
    _console.print_table(
        ["file", "bytes", "sha256"],
        [[n, number(record.size), record.sha256[:16]] for n, record in manifest.files.items()],
    )
    verdict = "verified: every file is intact" if verified else "not verified"
    _console.say(f"{verdict}; written by fuse_index {manifest.package_version}")


def show_quality(manifest: Manifest) -> None:
    """Write the figures of adapters and word indexes as tables."""
    from fuse_index.bundle.card import index_rows, quality_rows

    _console.print_table(*quality_rows(manifest), "Quality on held-out words")
    _console.print_table(*index_rows(manifest), "Word indexes")
