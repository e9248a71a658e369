"""Flags that the verbs for bundles share, and what fsspec makes a store's file system with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fuse_index.errors import OptionError

Groups = Annotated[
    bool, typer.Option("--groups/--no-groups", help="With the group tensors, or without.")
]
Index = Annotated[
    bool, typer.Option("--index/--no-index", help="With the word indexes, or without.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Use what the caches hold; no network access.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a bundle at a URL or in a folder.")
]
Storage = Annotated[
    list[str] | None,
    typer.Option(
        "--storage",
        metavar="KEY=VALUE",
        help="Option of a URL's file system, such as anon=true. Can be repeated.",
    ),
]


def storage_options(given: Sequence[str] | None) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` items; a value is JSON where it can be read so, else text.

    Raises:
        OptionError: an item has no key or no ``=``.
    """
    options: dict[str, Any] = {}
    for item in given or ():
        key, equals, value = item.partition("=")
        if not key.isidentifier() or not equals:
            raise OptionError(
                f"--storage {key}",
                expected="KEY=VALUE, such as anon=true or endpoint_url=http://...",
            )
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options
