"""Files of a bundle: written with their checksum, opened only inside the folder."""

from __future__ import annotations

import hashlib
import os
import stat
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.layout import (
    CARD,
    INDEX_FOLDER,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    is_member_name,
)
from fuse_index.bundle.manifest import FileRecord, Manifest
from fuse_index.bundle.tensorfile import header_length, parse_header
from fuse_index.common.progress import Add, ignore
from fuse_index.errors import BundleError, OptionError

READ_CHUNK = 4 << 20
_FETCH_AGAIN = "fetch or build the bundle again"


class HashingWriter:
    """A new file that hashes what is written to it and is on the disk when closed.

    Args:
        path: file to create; it must not exist.
        add: called with the bytes written since the last call.
    """

    def __init__(self, path: Path, add: Add = ignore) -> None:
        self._add = add
        self._file = path.open("xb", buffering=0)
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: Any) -> None:
        """Append bytes (any contiguous buffer)."""
        view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        self._digest.update(view)
        while view:
            view = view[self._file.write(view) :]
            # A raw write may be short, most of all on a full disk; the next one then raises.
        self._add(self._file.tell() - self._size)
        self._size = self._file.tell()

    def close(self) -> FileRecord:
        """Flush to the disk and return the size and checksum."""
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(self._size, self._digest.hexdigest())

    def abandon(self) -> None:
        """Close without waiting for the disk."""
        self._file.close()


@contextmanager
def hashed_file(
    path: Path, records: dict[str, FileRecord], name: str, add: Add = ignore
) -> Iterator[HashingWriter]:
    """Create ``path`` for writing and put its record under ``records[name]`` once it is closed."""
    writer = HashingWriter(path, add)
    try:
        yield writer
        records[name] = writer.close()
    finally:
        writer.abandon()


def seal(folder: Path, manifest: Manifest, card: bytes | None) -> None:
    """Write the manifest, and the card where one is given, into a folder that has the rest.

    Raises:
        OptionError: the manifest is larger than a reader accepts.
    """
    text = manifest.to_bytes()
    if len(text) > MAX_MANIFEST_BYTES:
        raise OptionError(
            f"a manifest of {len(text)} bytes", expected=f"at most {MAX_MANIFEST_BYTES}"
        )
    for name, data in ((CARD, card), (MANIFEST, text)):
        if data is not None:
            with hashed_file(folder / name, {}, name) as writer:
                writer.write(data)


def open_member(root: Path, name: str) -> int:
    """Open a file of a bundle for reading.

    Args:
        root: the bundle's folder.
        name: path inside the bundle, already known to be a member's name.

    Returns:
        A file descriptor of a regular file; the caller closes it.

    Raises:
        BundleError: the file is missing, unreadable, not a regular file, or a link out of the
            folder. Links into the ``blobs`` folder of the Hub's cache are followed.
    """
    where = str(root / name)
    path = _resolve(root, name)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise BundleError(f"{where} is missing", remedy=_FETCH_AGAIN) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{where} cannot be opened ({error})", remedy="check the file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{where} is not a regular file", remedy=_FETCH_AGAIN)
    return descriptor


def _resolve(root: Path, name: str) -> str:
    folder = os.path.realpath(root)
    path = os.path.realpath(os.path.join(folder, name))
    allowed = [folder]
    cache = Path(folder)
    if cache.parent.name == "snapshots":  # the Hub's cache: snapshots/REVISION/* -> blobs/*, where
        # huggingface_hub 2 may link on to the blobs that all repositories share
        allowed += [str(cache.parents[1] / "blobs"), str(cache.parents[2] / "blobs")]
    if not any(path.startswith(parent + os.sep) for parent in allowed):
        raise BundleError(
            f"{root / name} is a link that leaves the bundle's folder",
            expected="a file inside the folder",
            remedy="copy the file into the bundle if you trust it",
        )
    return path


def read_plain(root: Path, name: str, limit: int) -> bytes:
    """Read a small file that no checksum is known of (the manifest).

    Raises:
        BundleError: as :func:`open_member`, or the file is larger than ``limit`` bytes.
    """
    with os.fdopen(open_member(root, name), "rb") as stream:
        data = _guarded(lambda: stream.read(limit + 1), root / name)
    if len(data) > limit:
        raise BundleError(
            f"{root / name} is larger than {limit} bytes", remedy="check that it is a bundle's file"
        )
    return bytes(data)


def read_checked(
    root: Path, name: str, record: FileRecord, report: Add = ignore
) -> NDArray[np.uint8]:
    """Read a whole file and verify it before it is parsed.

    Args:
        root: the bundle's folder.
        name: path inside the bundle.
        record: its size and checksum by the manifest.
        report: called with the bytes read since the last call.

    Returns:
        The bytes, uint8, in memory of their own: what was checked is what is parsed.

    Raises:
        BundleError: as :func:`open_member`; or size or checksum differ, or memory does not suffice.
    """
    where = root / name
    with os.fdopen(open_member(root, name), "rb", buffering=0) as stream:
        _check_size(os.fstat(stream.fileno()).st_size, record, where)
        try:
            data = np.empty(record.size, dtype=np.uint8)
        except MemoryError:
            raise BundleError(
                f"{where} has {record.size} bytes, more than memory can hold",
                remedy="use a machine with more memory, or check where the bundle comes from",
            ) from None
        digest = hashlib.sha256()
        view, position = data.data, 0
        while position < record.size:
            part = view[position : position + READ_CHUNK]
            count = _guarded(lambda part=part: stream.readinto(part), where)
            if not count:
                break
            digest.update(part[:count])
            position += count
            report(count)
    _check_size(position, record, where)
    _check_digest(digest.hexdigest(), record, where)
    return data


def check_member(root: Path, name: str, record: FileRecord, report: Add = ignore) -> int:
    """Check size and checksum of a file that is too large for memory.

    Args:
        root: the bundle's folder.
        name: path inside the bundle.
        record: its size and checksum by the manifest.
        report: called with the bytes read since the last call.

    Returns:
        The descriptor of the checked file; the caller closes it.

    Raises:
        BundleError: as :func:`read_checked`.
    """
    where = root / name
    descriptor = open_member(root, name)
    try:
        _check_size(os.fstat(descriptor).st_size, record, where)
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(READ_CHUNK))
        with os.fdopen(os.dup(descriptor), "rb", buffering=0) as stream:
            while count := _guarded(lambda: stream.readinto(buffer), where):
                digest.update(buffer[:count])
                report(count)
        _check_digest(digest.hexdigest(), record, where)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class CheckedFile:
    """A safetensors file of a bundle, read piece by piece after its checksum was verified.

    Args:
        root: the bundle's folder.
        name: path inside the bundle.
        record: its size and checksum by the manifest.
        report: called with the bytes checked since the last call.

    Attributes:
        where: the file, for messages.
        entries: the tensors, by name.

    Raises:
        BundleError: as :func:`read_checked`; or the header is malformed.
    """

    def __init__(self, root: Path, name: str, record: FileRecord, report: Add = ignore) -> None:
        self.where = str(root / name)
        self._descriptor = check_member(root, name, record, report)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        length = header_length(self.read(0, min(8, record.size)), record.size, self.where)
        self.entries = parse_header(self.read(8, length), record.size, self.where)

    def read(self, start: int, size: int) -> bytearray:
        """Return bytes from a position on.

        Raises:
            BundleError: the file was truncated meanwhile, or cannot be read.
            OptionError: it was closed.
        """
        data = bytearray(size)
        self.fill(start, memoryview(data))
        return data

    def fill(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes from a position on; raises as :meth:`read`."""
        if not self._close.alive:
            raise OptionError(f"{self.where} was closed", expected="an open bundle")
        try:
            while buffer and (count := os.preadv(self._descriptor, [buffer], start)):
                start, buffer = start + count, buffer[count:]
        except OSError as error:
            raise BundleError(f"{self.where} cannot be read ({error})") from None
        if buffer:
            raise BundleError(f"{self.where} was truncated while it was in use")

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._close()


def check_no_strangers(root: Path, files: Mapping[str, FileRecord]) -> None:
    """Refuse a folder with files that its manifest does not list; hidden files are not looked at.

    In the Hub's cache only the names of a bundle's files are looked at: a repository may hold a
    licence or pictures beside the bundle.

    Raises:
        BundleError: naming the first such file.
    """
    known, in_cache = {*files, MANIFEST}, root.parent.name == "snapshots"
    for folder, prefix in ((root, ""), (root / INDEX_FOLDER, f"{INDEX_FOLDER}/")):
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BundleError(f"{folder} cannot be listed ({error})", remedy="check it") from None
        for name in names:
            path = prefix + name
            listed = path in known or path == INDEX_FOLDER
            listed |= in_cache and not is_member_name(path)
            if not listed and not name.startswith("."):
                kind = "a file of another build" if is_member_name(path) else "not a bundle's file"
                raise BundleError(
                    f"{root / path} is not listed in the manifest ({kind})",
                    expected="only listed files",
                    remedy="delete it, or fetch or build the bundle again",
                )


def _check_size(size: int, record: FileRecord, where: Path) -> None:
    if size != record.size:
        what = "truncated" if size < record.size else "too long"
        raise BundleError(
            f"{where} is {what}: {size} bytes", expected=f"{record.size}", remedy=_FETCH_AGAIN
        )


def _check_digest(digest: str, record: FileRecord, where: Path) -> None:
    if digest != record.sha256:
        raise BundleError(
            f"{where} is damaged: sha256 {digest[:16]}...",
            expected=f"{record.sha256[:16]}... by the manifest",
            remedy=_FETCH_AGAIN,
        )


def _guarded(read: Any, where: Path) -> Any:
    try:
        return read()
    except OSError as error:
        raise BundleError(f"{where} cannot be read ({error})", remedy="check the disk") from None
