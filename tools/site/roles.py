"""A Griffe extension: Sphinx's roles of our docstrings become links of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):`(~?)(\.?)([\w.]+)`")


def as_links(text: str, resolve: Any) -> str:
    """Write ``:class:`~a.b.C``` as code that links to ``a.b.C``.

    Args:
        text: a docstring.
        resolve: turns a name as it stands into a full path, or into ``None``.
    """

    def link(match: re.Match[str]) -> str:
        short, _, name = match.groups()
        path = resolve(name)
        label = name.rpartition(".")[2] if short else name
        if path is None:
            return f"`{label}`"
        # Optional: a name that has no page of its own stays plain code.
        return f'<autoref identifier="{path}" optional><code>{label}</code></autoref>'

    return _ROLE.sub(link, text)


class Roles(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is None or ":`" not in obj.docstring.value:
            return

        def resolve(name: str) -> str | None:
            if name.startswith("fuse_index."):
                return name
            try:
                return str(obj.resolve(name))
            except griffe.NameResolutionError:
                return None

        obj.docstring.value = as_links(obj.docstring.value, resolve)
