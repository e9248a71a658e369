"""Atomic publication of a folder: built beside its final place, then moved there in one step.

A build that is killed leaves a hidden folder ``.NAME.building-*`` next to its output. It is never
read, and the next build to the same place removes it: a live build holds a lock on its folder,
which the system lets go when the process dies.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fuse_index.bundle.jsontext import load_strict
from fuse_index.bundle.layout import (
    ADAPTER,
    CARD,
    FORMAT,
    GROUPS,
    INDEX_FOLDER,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    WORDS,
)
from fuse_index.errors import BundleError, StorageError

_BUILDING = "building"
_REPLACED = "replaced"
_STALE_SECONDS = 24 * 3600.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_EXISTS = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_HARMLESS = {".gitattributes", ".cache", ".DS_Store"}
"""Hidden entries that hubs and file managers add, which may be lost with an overwritten bundle."""

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def is_staging_name(name: str) -> bool:
    """Whether a folder name is that of an unfinished or replaced bundle."""
    return re.fullmatch(rf"\..+\.({_BUILDING}|{_REPLACED})-[0-9a-f]{{16}}", name) is not None


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Check, before any work is done, that a bundle can be written to ``path``.

    Args:
        path: the folder to be made.
        overwrite: whether an existing bundle may be replaced.

    Returns:
        The path with links resolved. Missing parent folders are fine; they are made on writing.

    Raises:
        StorageError: ``path`` exists and ``overwrite`` is off, or it is not a bundle (only bundles
            are ever overwritten), or its parent cannot be written.
    """
    output = Path(os.path.realpath(path))
    if output.parent == output:
        raise StorageError(f"output folder {output}", expected="a new folder", remedy="name one")
    if output.exists():
        _check_replaceable(output, overwrite)
    parent = output.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise StorageError(
            f"{parent} is a file", expected="a folder to write into", remedy="choose another output"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StorageError(
            f"{parent} is not writable", remedy="choose another output, or change its permissions"
        )
    return output


def _check_replaceable(output: Path, overwrite: bool) -> None:
    if not output.is_dir():
        raise StorageError(
            f"output {output} is a file", expected="a folder that does not exist yet"
        )
    if not overwrite:
        raise StorageError(
            f"output folder {output} exists",
            expected="a folder that does not exist yet",
            remedy="choose another one, or allow overwriting (--overwrite)",
        )
    if not _is_bundle(output):
        raise StorageError(
            f"output folder {output} is not a bundle, so it is not overwritten",
            expected="a bundle or a new folder",
            remedy="choose another one, or delete it yourself",
        )


def _is_bundle(folder: Path) -> bool:
    """Whether a folder holds nothing but a bundle, whole or damaged, or nothing at all."""
    names = {entry.name for entry in os.scandir(folder)}
    if not names <= {MANIFEST, WORDS, GROUPS, ADAPTER, CARD, INDEX_FOLDER, *_HARMLESS}:
        return False
    if not names or (folder / WORDS).is_file():
        return True
    try:
        with (folder / MANIFEST).open("rb") as stream:
            data = stream.read(MAX_MANIFEST_BYTES)
        return bool(load_strict(data, MANIFEST).get("format") == FORMAT)
    except (OSError, BundleError):
        return False


@contextmanager
def staged(output: Path, overwrite: bool = False) -> Iterator[Path]:
    """Make a folder all at once.

    Args:
        output: the final place, as :func:`check_output` returns it.
        overwrite: whether an existing bundle may be replaced.

    Yields:
        An empty folder to fill. When the block ends it is moved to ``output``; when it raises, the
        folder is removed and ``output`` is as it was.

    Raises:
        StorageError: the disk is full, permission is missing, or ``output`` appeared meanwhile.
    """
    missing = [parent for parent in output.parents if not parent.exists()]
    folder: Path | None = None
    lock: int | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        recover(output)
        folder, lock = _make_staging(output)
        yield folder
        _sync_folder(folder)
        _publish(folder, output, overwrite)
    except OSError as error:
        raise storage_error(error, output) from error
    finally:
        if folder is not None:  # after success this is the replaced bundle, or nothing
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        for parent in missing:  # only those that are empty: nothing is left of a failed build
            with suppress(OSError):
                parent.rmdir()


def require_space(folder: Path, size: int) -> None:
    """Refuse to begin when the disk cannot hold what will be written.

    Raises:
        StorageError: naming both amounts.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageError(
            f"{folder.parent} has {free / 1e6:,.1f} MB free",
            expected=f"{size / 1e6:,.1f} MB for the bundle",
            remedy="free space, choose another disk, or leave the group tensors out (--no-groups)",
        )


def recover(output: Path) -> None:
    """Clean up after builds to ``output`` that were killed.

    Unfinished folders are removed. A bundle that was moved aside and not yet replaced, which
    happens only where the system cannot swap two folders, is put back.
    """
    if not output.parent.is_dir():
        return
    prefix = f".{output.name}."
    for entry in sorted(os.scandir(output.parent), key=lambda entry: entry.name):
        if not (entry.name.startswith(prefix) and is_staging_name(entry.name)):
            continue
        if entry.name[: -len("-") - 16] not in (prefix + _BUILDING, prefix + _REPLACED):
            continue
        folder = Path(entry.path)
        if not entry.is_dir(follow_symlinks=False):
            continue
        with _claimed(folder) as is_ours:
            if not is_ours:
                continue
            if entry.name.startswith(prefix + _REPLACED) and not output.exists():
                os.rename(folder, output)
            else:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Hold the lock of a leftover folder; yields False where its build may be alive."""
    descriptor = None
    try:
        descriptor = lock_folder(folder, wait=False)
        yield descriptor is not None or _is_stale(folder)
    except BlockingIOError:
        yield False
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_stale(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > _STALE_SECONDS
    except OSError:
        return False


def lock_folder(folder: Path, wait: bool) -> int | None:
    """Lock a folder until the descriptor is closed or the process dies.

    Args:
        folder: the folder.
        wait: whether to wait while another process holds it.

    Returns:
        The descriptor; ``None`` where the system or the file system has no such locks.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is off.
        FileNotFoundError: there is no such folder.
    """
    if sys.platform == "win32":
        return None
    import fcntl  # noqa: PLC0415 - not on every system

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _make_staging(output: Path) -> tuple[Path, int | None]:
    while True:
        folder = output.parent / f".{output.name}.{_BUILDING}-{secrets.token_hex(8)}"
        folder.mkdir()
        try:
            lock = lock_folder(folder, wait=True)
        except FileNotFoundError:
            continue  # another build took it for a leftover before we held the lock
        if lock is None or folder.exists():
            return folder, lock
        os.close(lock)


def _publish(folder: Path, output: Path, overwrite: bool) -> None:
    if not output.exists():
        os.rename(folder, output)
    else:
        _check_replaceable(output, overwrite)
        if not _exchange(folder, output):
            _replace_in_two_steps(folder, output)
    _sync_folder(output.parent)


def _replace_in_two_steps(folder: Path, output: Path) -> None:
    aside = output.parent / f".{output.name}.{_REPLACED}-{secrets.token_hex(8)}"
    os.rename(output, aside)
    try:
        os.rename(folder, output)
    except OSError:
        os.rename(aside, output)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step (Linux); False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    with suppress(AttributeError, OSError):
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
        return bool(renameat2(*arguments, _RENAME_EXCHANGE) == 0)
    return False


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every system can sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def storage_error(error: OSError, output: Path) -> StorageError:
    """Return the error of a failed write of ``output`` with a remedy."""
    if error.errno in _FULL:
        return StorageError(
            f"no space left while writing {output} ({error.strerror})",
            remedy="free space or choose another disk; nothing was written",
        )
    if error.errno in _EXISTS:
        return StorageError(
            f"output folder {output} exists",
            expected="a folder that does not exist yet",
            remedy="choose another one, or allow overwriting (--overwrite)",
        )
    return StorageError(
        f"{output} cannot be written ({error.strerror or error})", remedy="choose another output"
    )
