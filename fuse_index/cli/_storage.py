"""Options of a store: what fsspec makes its file system with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fuse_index.errors import OptionError

STORAGE_HELP = "Option of a URL's file system, such as anon=true. Can be repeated."


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
