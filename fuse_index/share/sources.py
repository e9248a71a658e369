"""One revision of a bundle, and the local folder that its files are downloaded to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fuse_index.bundle.files import READ_CHUNK
from fuse_index.bundle.manifest import FileRecord, Manifest
from fuse_index.bundle.staging import require_space, storage_error
from fuse_index.common.files import write_atomically
from fuse_index.common.progress import Tick
from fuse_index.errors import BundleError, RemoteError

Report = Callable[[int], None]
"""Called with the bytes that arrived since the last call; less than zero when they were lost."""

Fetch = Callable[[str, FileRecord, Report], None]
"""Brings one file, by its name in the bundle, into the source's folder, checked."""


@dataclass(frozen=True)
class BundleSource:
    """A bundle at one revision, some of whose files are in a local folder.

    Attributes:
        name: what messages call it.
        manifest: what the bundle says of itself.
        revision: the commit of the Hub, or the checksum of the manifest elsewhere.
        folder: the local folder: a snapshot in the Hub's cache, a folder in this package's cache,
            or the bundle itself.
        fetch: see :data:`Fetch`; ``None`` where only what is there may be used.
        remember: notes that the place held this revision, for offline use.
    """

    name: str
    manifest: Manifest
    revision: str
    folder: Path
    fetch: Fetch | None = None
    remember: Callable[[], None] = lambda: None

    def fill(self, names: Iterable[str], progress: Tick | None, *, check: bool = False) -> Path:
        """Fetch the files that are not in the folder yet.

        Args:
            names: the files wanted.
            progress: called with (bytes there, bytes in all).
            check: whether files that are there are checked too, and fetched again when damaged.

        Returns:
            The folder. Files that were there are checked only with ``check``.

        Raises:
            BundleError: what arrives is not what the manifest says; nothing of it is kept.
            RemoteError: a file is not there, and cannot or may not be fetched.
            StorageError: the disk is full, or may not be written.
        """
        records = {name: self.manifest.files[name] for name in names}
        report = counter(sum(record.size for record in records.values()), progress)
        try:
            wanted = [name for name in records if not self._holds(name, check)]
            report(sum(record.size for name, record in records.items() if name not in wanted))
            if self.fetch is None and wanted:
                raise not_cached(f"{self.name}: the cache has no {wanted[0]}", self.name)
            require_space(self.folder, sum(records[name].size for name in wanted))
            for name in wanted:
                assert self.fetch is not None
                self.fetch(name, records[name], report)
        except OSError as error:
            raise storage_error(error, self.folder) from error
        with suppress(OSError):  # a cache that cannot be written serves what it has
            self.remember()
        return self.folder

    def _holds(self, name: str, check: bool) -> bool:
        """Whether a file is there; one that is damaged and can be fetched again is deleted."""
        path = self.folder / name
        if not path.is_file():
            return False
        if check and self.fetch is not None and not is_intact(path, self.manifest.files[name]):
            forget(path)
            return False
        return True


def not_cached(given: str, name: str) -> RemoteError:
    """Return the error for something that is not in a cache, without a network."""
    return RemoteError(
        given,
        expected="a copy that was pulled where there is a network",
        remedy=f"run 'fuse-index pull {name}' there",
    )


def require_size(name: str, announced: int | None, record: FileRecord) -> None:
    """Compare the size that a server announces with the manifest's.

    Raises:
        BundleError: they differ.
    """
    if announced is not None and announced != record.size:
        raise BundleError(
            f"{name} has {announced} bytes",
            expected=f"{record.size} by the manifest",
            remedy="ask its publisher, or fetch it again if it is being replaced",
        )


def require_intact(name: str, path: Path, record: FileRecord) -> None:
    """Check a file that was fetched, and delete it if it is not what the manifest says.

    Raises:
        BundleError: it is not.
    """
    found = digest_of(path)
    if found != record.sha256:
        forget(path)
        raise BundleError(
            f"{name} is damaged: sha256 {found[:16]}...",
            expected=f"{record.sha256[:16]}... by the manifest",
            remedy="nothing of it was kept: fetch it again, or ask its publisher",
        )


def too_long(name: str, record: FileRecord) -> BundleError:
    """Return the error for more bytes than the manifest announces."""
    return BundleError(f"{name} is too long", expected=f"{record.size} bytes by the manifest")


def is_intact(path: Path, record: FileRecord) -> bool:
    """Whether a file is there, readable, and what the manifest says."""
    try:
        return path.stat().st_size == record.size and digest_of(path) == record.sha256
    except OSError:
        return False


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


def forget(path: Path) -> None:
    """Delete a file; in the Hub's cache also the content that it links to."""
    content = Path(os.path.realpath(path))
    path.unlink(missing_ok=True)
    if "blobs" in content.parts:
        content.unlink(missing_ok=True)


def counter(total: int, progress: Tick | None) -> Report:
    """Turn "bytes since the last call" into the caller's (done, total)."""
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    return report


def note(path: Path, data: bytes) -> None:
    """Write a small file, unless that is what it holds.

    Raises:
        OSError: it cannot be written.
    """
    with suppress(OSError):
        if path.read_bytes() == data:
            return
    write_atomically(path, data)


def checksum_of(manifest: Manifest) -> str:
    """Return the checksum over a manifest, which all files of its bundle go into."""
    return str(manifest.to_json()["checksum"])
