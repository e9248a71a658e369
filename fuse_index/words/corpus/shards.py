"""A corpus cut into shards that can be counted one by one, anywhere, with the same words.

A shard is a whole file, a range of bytes of a plain text, or a range of row groups of a Parquet
file. A text is cut at an ASCII white-space byte only, which in UTF-8 is never part of another
character: no word is cut, and the shards' words are the text's words.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import IO

from fuse_index.errors import CorpusError
from fuse_index.words.corpus.reading import TextSource
from fuse_index.words.corpus.remote import row_groups

SHARD_BYTES = 256 << 20
"""About so much text is counted between two checkpoints."""

_SPACE = re.compile(rb"[\t-\r\x1c-\x20]")
_BLOCK = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"


def split_sources(
    sources: Sequence[TextSource], encoding: str, shard_bytes: int | None = None
) -> list[TextSource]:
    """Cut sources into shards.

    Args:
        sources: files, URLs or standard input.
        encoding: of the texts; only UTF-8 and ASCII are cut inside of a file.
        shard_bytes: about how long a shard is; :data:`SHARD_BYTES` if not given.

    Returns:
        The shards, in order; the same for the same files.

    Raises:
        CorpusError: a file cannot be read; the message names it.
    """
    size = SHARD_BYTES if shard_bytes is None else shard_bytes
    whole = codecs.lookup(encoding).name not in ("utf-8", "ascii")
    shards: list[TextSource] = []
    for source in sources:
        if not source.again or source.size is None or source.size <= size:
            shards.append(source)
        elif source.is_parquet:
            shards += _split_groups(source, size)
        elif whole or _begins_with(source, _GZIP_MAGIC):
            shards.append(source)
        else:
            shards += _split_text(source, source.size, size)
    return shards


def _split_text(source: TextSource, total: int, size: int) -> list[TextSource]:
    count = -(-total // size)
    try:
        with source.open() as stream:
            cuts = [0]
            for number in range(1, count):
                if cuts[-1] < number * size:  # else there is no space before that cut
                    cuts.append(_next_space(stream, number * size, total))
    except OSError as error:
        raise _unreadable(source, error) from error
    bounds = [*dict.fromkeys(cuts), total]
    return [replace(source, size=b - a, start=a, stop=b) for a, b in pairwise(bounds) if b > a]


def _next_space(stream: IO[bytes], position: int, total: int) -> int:
    """The first ASCII white space at or after a position, or the end."""
    stream.seek(position)
    while position < total:
        block = stream.read(_BLOCK)
        if not block:
            break
        if found := _SPACE.search(block):
            return position + found.start()
        position += len(block)
    return total


def _split_groups(source: TextSource, size: int) -> list[TextSource]:
    shards, start, held = [], 0, 0
    groups = row_groups(source.open, source.name)
    for number, (_, held_here) in enumerate(groups, 1):
        held += held_here
        if held >= size or number == len(groups):
            share = (source.size or 0) * (number - start) // len(groups)
            shards.append(replace(source, size=share, start=start, stop=number))
            start, held = number, 0
    return shards or [source]


def _begins_with(source: TextSource, magic: bytes) -> bool:
    try:
        with source.open() as stream:
            return stream.read(len(magic)) == magic
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(source: TextSource, error: OSError) -> CorpusError:
    return CorpusError(
        f"{source.name} cannot be read: {error.strerror or error}",
        remedy="check that it is a readable file",
    )
