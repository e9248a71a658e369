"""``fuse-index diff``: what changed from one bundle to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console, _flags

if TYPE_CHECKING:
    from fuse_index.share.compare import Comparison

DIFFERENT = 1
_PLACE = "A folder, a Hub id such as owner/name[@revision], or a URL."


def diff_command(
    first: Annotated[str, typer.Argument(metavar="BUNDLE", help=_PLACE)],
    second: Annotated[str, typer.Argument(metavar="BUNDLE", help=_PLACE)],
    offline: _flags.Offline = False,
    json: _flags.Json = False,
) -> None:
    """Show what changed from the first BUNDLE to the second.

    Models, build options, words, groups, the adapters' relative difference, quality and files; what
    is equal is not shown. What is compared is checked first. Exit code: 0 when all bytes are equal,
    1 when something differs, 2 when a bundle cannot be read.
    """
    from fuse_index.bundle import read_bundle
    from fuse_index.share import locate
    from fuse_index.share.compare import compare_bundles

    with _console.ProgressBar() as bar:
        paths = [
            locate(name, local_files_only=offline, progress=bar.stage(f"fetching {name}"))
            for name in (first, second)
        ]
    found = compare_bundles(*(read_bundle(path) for path in paths))
    report = {"first": first, "second": second, **asdict(found)}
    _console.answer(json, report, lambda: _show(first, second, found))
    if not found.same:
        raise typer.Exit(DIFFERENT)


def _show(first: str, second: str, found: Comparison) -> None:
    if found.same:
        _console.say(f"{first} and {second} are the same, byte for byte")
        return
    for role, fields in found.models.items():
        fits = "same tokenizer and embeddings" if found.fits[role] else "another model"
        _pairs(f"{role.capitalize()} model: {fits}", fields)
    _pairs("Options", found.options)
    _words(found)
    _pairs("Words of a group", found.groups)
    rows = [[name, "-" if v is None else f"{v:.2e}"] for name, v in found.adapters.items()]
    _console.print_table(["group", "relative difference"], rows, "Adapters")
    _quality(found)
    _pairs("Manifest", found.other)
    _pairs("Files", found.files)


def _words(found: Comparison) -> None:
    words = found.words
    if not words.any:
        return
    rows = [
        ["in both", f"{words.kept:,}", ""],
        ["only in the first", f"{words.removed:,}", " ".join(words.examples_removed)],
        ["only in the second", f"{words.added:,}", " ".join(words.examples_added)],
        ["another count", f"{words.counts_changed:,}", ""],
        ["other source tokens", f"{words.source_tokens_changed:,}", ""],
        ["other target tokens", f"{words.target_tokens_changed:,}", ""],
    ]
    _console.print_table(["words", "", "the most frequent"], rows, "Words", justify="left")


def _quality(found: Comparison) -> None:
    """Show the figures that matter, of the groups where any of them differs."""
    columns = ("relative_error", "cosine")
    rows = []
    for group, figures in found.quality.items():
        pairs = [figures.get(name) for name in columns]
        if any(pairs):
            rows.append([group, *(_cell(v) if p else "=" for p in pairs for v in p or ("", ""))])
    header = [f"{name.replace('_', ' ')} {n}" for name in columns for n in (1, 2)]
    _console.print_table(["group", *header], rows, "Quality on held-out words")


def _pairs(title: str, pairs: Mapping[str, Any]) -> None:
    """Show a table of what differs; of nested objects only the entries that do."""
    rows = []
    for name, (one, other) in pairs.items():
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            for key in dict.fromkeys([*one, *other]):
                if one.get(key) != other.get(key):
                    rows.append([f"{name}: {key}", _cell(one.get(key)), _cell(other.get(key))])
        else:
            rows.append([name, _cell(one), _cell(other)])
    _console.print_table(["", "first", "second"], rows, title, justify="left")


def _cell(value: Any) -> str:
    from fuse_index.bundle.card import number

    text = number(value)
    return f"{text[:16]}..." if len(text) == 64 and text.isalnum() else text
