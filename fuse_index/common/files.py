"""Files that are replaced in one step: a reader finds the old content or the new, never half."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file, in hex.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary sibling that replaces ``path`` when the block ends without an error.

    The sibling is synchronized to the disk before it takes the name, and removed after an error.
    Missing parent folders are made.

    Args:
        path: the file to write.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write a whole file in one step; see :func:`replacing`."""
    with replacing(path) as part:
        part.write_bytes(data)
