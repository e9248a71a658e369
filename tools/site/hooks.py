"""Hooks of the documentation site: the command line's help becomes a page."""

from __future__ import annotations

from typing import Any

MARKER = "<!-- verbs -->"


def verbs() -> str:
    """Write the help of every verb as Markdown, as ``fuse-index VERB --help`` prints it."""
    from fuse_index.cli.main import PROGRAM, VERBS, LazyCommand

    parts = []
    for name, verb in VERBS.items():
        command = LazyCommand(name, verb).load()
        context = type(command).context_class(
            command, info_name=f"{PROGRAM} {name}", max_content_width=88, terminal_width=88
        )
        parts.append(f"## {name}\n\n```text\n{command.get_help(context).strip()}\n```\n")
    return "\n".join(parts)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the verbs where a page asks for them."""
    return markdown.replace(MARKER, verbs()) if MARKER in markdown else markdown
