"""Fetching files: resumed where they stopped, never too long, checked when complete."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol

from fuse_index.bundle.files import READ_CHUNK
from fuse_index.bundle.manifest import FileRecord
from fuse_index.bundle.staging import storage_error
from fuse_index.errors import BundleError, RemoteError, StorageError
from fuse_index.share.failures import is_about_the_disk, may_pass

logger = logging.getLogger(__name__)

Report = Callable[[int], None]
"""Called with the bytes that arrived since the last call; less than zero when they were lost."""

_LOCK_SECONDS = 3600.0
_PAUSE_SECONDS = 0.2


class Remote(Protocol):
    """A bundle somewhere else, all of whose files are of one revision."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def errors(self) -> AbstractContextManager[None]:
        """Turn what the client library raises into errors of ours."""

    def announced(self, member: str) -> int | None:
        """Return the size that the other side gives a file; None where it gives none."""

    def append(self, member: str, size: int, file: Any) -> None:
        """Write a file of ``size`` bytes on from the position where ``file`` is."""


class BoundedFile:
    """A file that takes no more bytes than were announced, and tells of those it takes.

    Args:
        file: what is written to.
        limit: the most bytes it may have.
        where: what is fetched, for the message.
        report: see :data:`Report`.
    """

    def __init__(self, file: IO[bytes], limit: int, where: str, report: Report) -> None:
        self._file = file
        self._limit = limit
        self._where = where
        self._report = report

    def write(self, data: bytes) -> int:
        """Append bytes.

        Raises:
            BundleError: there are more than announced.
        """
        if self._file.tell() + len(data) > self._limit:
            raise BundleError(
                f"{self._where} is too long", expected=f"{self._limit} bytes by the manifest"
            )
        self._report(len(data))
        return self._file.write(data)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def seek(self, position: int) -> int:
        """Go to a position."""
        return self._file.seek(position)

    def truncate(self) -> int:
        """Drop what follows the position."""
        position = self._file.tell()
        self._report(position - self._file.seek(0, os.SEEK_END))
        self._file.truncate(position)
        return self._file.seek(position)

    def flush(self) -> None:
        """Write what is buffered."""
        self._file.flush()


def fetch(remote: Remote, member: str, record: FileRecord, part: Path, report: Report) -> None:
    """Fetch one file, or what is missing of it, and check it.

    A connection that is cut is taken up where it stopped as long as bytes arrive. What is there
    when the work fails stays in ``part``, for the next time.

    Args:
        remote: where from.
        member: path inside the bundle.
        record: its size and checksum by the manifest.
        part: the file to fill; what it holds already is taken as the beginning.
        report: see :data:`Report`.

    Raises:
        BundleError: what arrives is not what the manifest says; it is deleted.
        RemoteError: the other side cannot be reached any more, or refuses.
        StorageError: the disk is full; what was fetched is deleted.
    """
    where = f"{remote.name}: {member}"
    begun = part.exists()
    report(part.stat().st_size if begun else 0)
    try:
        while True:
            _fill(remote, member, record, part, report)
            found = digest_of(part)
            if found == record.sha256:
                return
            report(-part.stat().st_size)
            part.unlink()
            if not begun:
                break
            begun = False  # the beginning of an earlier time may be what is damaged
    except OSError as error:
        if is_about_the_disk(error):
            part.unlink(missing_ok=True)
        raise storage_error(error, part.parent) from error
    raise BundleError(
        f"{where} is damaged: sha256 {found[:16]}...",
        expected=f"{record.sha256[:16]}... by the manifest",
        remedy="nothing of it was kept: fetch it again, or ask its publisher",
    )


def _fill(remote: Remote, member: str, record: FileRecord, part: Path, report: Report) -> None:
    """Bring ``part`` to its full size."""
    where = f"{remote.name}: {member}"
    if part.exists() and part.stat().st_size > record.size:
        report(-part.stat().st_size)
        part.unlink()
    with remote.errors(), _open_at_end(part) as file:
        if file.tell() < record.size:
            announced = remote.announced(member)
            if announced is not None and announced != record.size:
                raise BundleError(
                    f"{where} has {announced} bytes",
                    expected=f"{record.size} by the manifest",
                    remedy="ask its publisher, or fetch it again if it is being replaced",
                )
        while (before := file.tell()) < record.size:
            try:
                remote.append(member, record.size, BoundedFile(file, record.size, where, report))
            except Exception as error:
                if not may_pass(error) or file.tell() <= before:
                    raise
                logger.info("%s was cut after %d bytes; going on", where, file.tell())
                time.sleep(_PAUSE_SECONDS)
            else:
                if file.tell() <= before:
                    raise RemoteError(
                        f"{where} ends after {file.tell()} bytes",
                        expected=f"{record.size} by the manifest",
                        remedy="fetch it again, or ask its publisher",
                    )
        file.flush()
        os.fsync(file.fileno())


def _open_at_end(part: Path) -> IO[bytes]:
    """Open a file, made where it is missing, to write at its end or anywhere before."""
    part.touch()
    file = part.open("r+b")
    file.seek(0, os.SEEK_END)
    return file


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, in hex.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(READ_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def is_intact(path: Path, record: FileRecord) -> bool:
    """Whether a file is there, readable, and what the manifest says."""
    try:
        return path.stat().st_size == record.size and digest_of(path) == record.sha256
    except OSError:
        return False


def locked(path: Path) -> AbstractContextManager[Any]:
    """Hold a lock so that two processes do not write the same partial files.

    Raises:
        StorageError: the lock cannot be made.
    """
    from filelock import FileLock  # noqa: PLC0415 - only to fetch

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path.parent) from error
    return _Lock(FileLock(path, timeout=_LOCK_SECONDS), path)


class _Lock:
    """A file lock whose failures are ours."""

    def __init__(self, lock: Any, path: Path) -> None:
        self._lock = lock
        self._path = path

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
        except TimeoutError as error:
            raise StorageError(
                f"{self._path} has been locked for an hour by another process",
                remedy="end that process, or choose another output",
            ) from error
        except OSError as error:
            raise storage_error(error, self._path) from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()
