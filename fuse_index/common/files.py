"""Files that are replaced in one step: a reader finds the old content or the new, never half."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import sys
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


def is_special(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a device, a FIFO or a socket: something to write to, not to replace."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def write_out(path: str | os.PathLike[str], data: bytes) -> None:
    """Write to a place that a user named.

    A regular file is replaced in one step, where a link leads to. Devices and FIFOs are written
    to; so is what the process has as its standard output or error.

    Args:
        path: the place.
        data: all of it.

    Raises:
        OSError: it cannot be written.
    """
    stream = _own_stream(path)
    if stream is not None:
        with open(os.dup(stream), "wb") as file:
            file.write(data)
    elif is_special(path):
        with open(path, "wb") as file:
            file.write(data)
    else:
        place = os.path.realpath(path)
        if os.path.islink(place):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
        write_atomically(place, data)


def _own_stream(path: str | os.PathLike[str]) -> int | None:
    """The descriptor of standard output or error, if a path is the same file."""
    for stream in (sys.stdout, sys.stderr):
        try:
            number = stream.fileno()
            if os.path.samestat(os.stat(path), os.fstat(number)):
                stream.flush()
                return number
        except (OSError, ValueError, AttributeError):
            continue  # no such path, or a stream that is no file
    return None
