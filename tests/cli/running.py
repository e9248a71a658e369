"""How the tests of ``optimize`` call it, and compare what it prints."""

from __future__ import annotations

from fuse_index.cli import main as cli

START = "the picture contains a small circle on the left"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main(["optimize", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def without_times(value):
    """A JSON value without what a clock says."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list) else value
