"""Captions of images in lines of text: Flickr's, and tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from fuse_index.errors import CorpusError
from fuse_index.evaluate.structure import Omissions, Tell

EXPECTED = "lines such as '1.jpg#0<tab>a dog', or a table with the columns 'image' and 'caption'"
_TITLES = ("image", "image_name", "file_name", "filename")
"""What the first column of a table of captions is called."""


def read_lines(path: Path, tell: Tell) -> Iterator[tuple[str, str]]:
    """Yield file name and caption of lines ``name#number<tab>caption`` or of a table.

    Args:
        path: text; a table has a header, and commas, bars or tabs.
        tell: called with one line on lines that are left out.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"{path} cannot be read ({reason})", expected=EXPECTED) from error
    left_out = Omissions(path, tell)
    for number, row in _rows(lines):
        if row is None:
            left_out.add("line that is no caption of an image", f"line {number}")
        else:
            yield row
    left_out.say()


def _rows(lines: list[str]) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """Number and content of every line that is not blank; None for one that cannot be used."""
    header = next((line for line in lines if line.strip()), "")
    mark = next((mark for mark in "\t|," if mark in header), ",")
    names = [name.strip().lower() for name in header.split(mark)]
    titled = names[0] in _TITLES
    for number, cells in _cells(lines, mark, titled):
        name, *rest = (cell.strip() for cell in cells)
        if not any((name, *rest)) or name.lower() in _TITLES:
            continue
        full = name and len(cells) >= (len(names) if titled else 2) and rest[-1]
        yield number, (re.sub(r"#\d+$", "", name), rest[-1]) if full else None


def _cells(lines: list[str], mark: str, titled: bool) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of lines; without a header all behind the first mark is the caption."""
    if not titled:
        yield from ((number, line.split(mark, 1)) for number, line in enumerate(lines, 1))
        return
    reader = csv.reader(lines, delimiter=mark)
    if mark != ",":  # quotation marks are part of the captions
        reader = csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE)
    yield from ((reader.line_num, cells) for cells in reader if cells)
