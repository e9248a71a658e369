"""Fetching a bundle from a hub, a bucket or a folder: checked, and visible only when complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from fuse_index.bundle.layout import ADAPTER, CARD, WORDS
from fuse_index.bundle.manifest import Manifest
from fuse_index.bundle.read import verify_bundle, verify_files
from fuse_index.bundle.staging import (
    check_output,
    lock_folder,
    require_space,
    staged,
    storage_error,
)
from fuse_index.bundle.trim import seal, trim
from fuse_index.errors import BundleError, FuseIndexError, OptionError
from fuse_index.share.download import Report
from fuse_index.share.hub import Token
from fuse_index.share.places import ACCEPTED, Place, PlaceKind, parse_place
from fuse_index.share.sources import (
    HubSource,
    Source,
    cache_entry,
    cached_copy,
    checksum_of,
    find_source,
    remember,
)

Progress = Callable[[int, int], None]
"""Called with (bytes there, bytes in total)."""


@dataclass(frozen=True)
class Pulled:
    """What :func:`pull` did.

    Attributes:
        path: the bundle's folder.
        manifest: what it says of itself.
        place: where it came from.
        revision: the commit of the Hub, or the checksum of the manifest elsewhere.
        missing: files that the manifest lists and that were left out (in the Hub's cache only).
    """

    path: Path
    manifest: Manifest
    place: Place
    revision: str
    missing: tuple[str, ...] = ()


def pull(
    name: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    groups: bool = True,
    index: bool = True,
    overwrite: bool = False,
    token: Token = None,
    storage_options: Mapping[str, Any] | None = None,
    local_files_only: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Fetch a bundle and check all of it.

    Args:
        name: ``owner/name[@revision]`` of the Hub, an fsspec URL, or a folder.
        out: the folder to make; ``None`` fetches into the cache, where
            :meth:`~fuse_index.Adapter.from_pretrained` finds it.
        revision: branch, tag or commit of the Hub.
        groups: whether the group tensors are fetched.
        index: whether the word indexes are fetched.
        overwrite: whether a bundle at ``out`` may be replaced.
        token: of the Hub; ``None`` takes the one that ``hf auth login`` stored.
        storage_options: what fsspec makes the file system with.
        local_files_only: take what the cache holds, and ask nobody.
        progress: see :data:`Progress`.

    Returns:
        Where it is now, and what it is.

    Raises:
        OptionError: the name is malformed.
        RemoteError: it is not there, may not be read, or cannot be reached.
        BundleError: what arrives is damaged, hostile or no bundle; nothing of it is kept.
        StorageError: it cannot be written, or the disk is full; what was there is as it was.
    """
    place = parse_place(name, revision)
    output = None if out is None else check_output(out, overwrite)
    if place.kind is PlaceKind.FOLDER and not Path(place.location).is_dir():
        raise OptionError(f"{place} is neither a folder nor a Hub id", expected=ACCEPTED)
    if place.kind is PlaceKind.FOLDER and output is None:
        raise OptionError(f"{place} is a folder", expected="--out, the folder to copy it to")
    if output is None and place.kind is PlaceKind.URL and local_files_only:
        path = cached_copy(place)
        found = verify_bundle(path)
        return Pulled(path, found, place, checksum_of(found))
    source = find_source(place, token, storage_options, local_files_only)
    if output is None and isinstance(source, HubSource):
        return _into_hub_cache(source, place, groups, index, progress)
    made = trim(source.manifest, groups=groups, index=index)
    if output is None:
        output = cache_entry(source.manifest, groups=groups, index=index)
        _make(output, source, made, _Existing.KEEP_WHOLE, progress)
        remember(place, source.manifest)
    else:
        existing = _Existing.REPLACE if overwrite else _Existing.REFUSE
        _make(output, source, made, existing, progress)
    return Pulled(output, made[0], place, source.revision)


def locate(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: Token = None,
    storage_options: Mapping[str, Any] | None = None,
    local_files_only: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Find a bundle for reading its words and adapters, fetching those where needed.

    Args:
        name: a folder, which is returned as it is; a Hub id; or an fsspec URL.
        revision: as for :func:`pull`.
        token: as for :func:`pull`.
        storage_options: as for :func:`pull`.
        local_files_only: take what the cache holds, and ask nobody.
        progress: see :data:`Progress`.

    Returns:
        A folder that :func:`~fuse_index.bundle.read_bundle` reads.

    Raises:
        FuseIndexError: as for :func:`pull`.
    """
    place = parse_place(name, revision)
    if place.kind is PlaceKind.FOLDER:
        return Path(place.location)
    if place.kind is PlaceKind.URL and local_files_only:
        return cached_copy(place)
    source = find_source(place, token, storage_options, local_files_only)
    if isinstance(source, HubSource):
        members = [name for name in (WORDS, ADAPTER) if name in source.manifest.files]
        return source.fill(members, _counter(source.manifest, members, progress))
    for groups, index in ((False, False), (True, True), (True, False), (False, True)):
        path = cache_entry(source.manifest, groups=groups, index=index)
        if path.is_dir():
            break
    else:
        path = cache_entry(source.manifest, groups=False, index=False)
        made = trim(source.manifest, groups=False, index=False)
        _make(path, source, made, _Existing.KEEP_WHOLE, progress)
    remember(place, source.manifest)
    return path


def _into_hub_cache(
    source: HubSource, place: Place, groups: bool, index: bool, progress: Progress | None
) -> Pulled:
    """Fetch into the Hub's cache, which holds a commit as it is: files may be left out."""
    whole = source.manifest
    kept, _ = trim(whole, groups=groups, index=index)
    members = list(kept.files)
    path = source.fill(members, _counter(whole, members, progress), again=True)
    there = {name: record for name, record in whole.files.items() if (path / name).is_file()}
    verify_files(path, replace(whole, files=there))
    missing = tuple(sorted(set(whole.files) - set(there)))
    return Pulled(path, whole, place, source.revision, missing)


class _Existing(Enum):
    """What happens to a bundle that is where one is made."""

    REFUSE = "refuse"
    REPLACE = "replace"
    KEEP_WHOLE = "keep it if it is intact"


def _make(
    output: Path,
    source: Source,
    made: tuple[Manifest, bytes | None],
    existing: _Existing,
    progress: Progress | None,
) -> None:
    """Fetch into a hidden folder beside ``output``, which outlives a failure, and publish it."""
    manifest, card = made
    members = [name for name in manifest.files if name != CARD or card is None]
    with _own_work(output) as work:
        if existing is _Existing.KEEP_WHOLE and _is_whole(output):
            return
        check_output(output, existing is not _Existing.REFUSE)  # another pull may have made it
        parts = {name: work / f"{manifest.files[name].sha256}.part" for name in members}
        try:
            _forget_others(work, parts)
            _require_space(work, manifest, parts)
        except OSError as error:
            raise storage_error(error, output) from error
        report = _counter(manifest, members, progress)
        for name, part in parts.items():
            source.fetch(name, manifest.files[name], part, report)
        with staged(output, existing is not _Existing.REFUSE) as folder:
            for name, part in parts.items():
                (folder / name).parent.mkdir(exist_ok=True)
                _link_or_move(part, folder / name)
            seal(folder, manifest, card)
            try:
                verify_files(folder, manifest)
            except BundleError:
                shutil.rmtree(work, ignore_errors=True)
                raise
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _own_work(output: Path) -> Iterator[Path]:
    """Yield the folder beside ``output`` that outlives a failure, for this process alone."""
    work = output.parent / f".{output.name}.pulling"
    missing = [parent for parent in output.parents if not parent.exists()]
    try:
        lock = _claim(work)
    except OSError as error:
        raise storage_error(error, output) from error
    try:
        yield work
    finally:
        if lock is not None:
            os.close(lock)
        for folder in (work, *missing):  # only those that are empty
            with suppress(OSError):
                folder.rmdir()


def _claim(work: Path) -> int | None:
    """Make and lock a folder; another pull that held it may have removed it meanwhile."""
    while True:
        work.mkdir(parents=True, exist_ok=True)
        try:
            lock = lock_folder(work, wait=True)
        except FileNotFoundError:
            continue
        if lock is None:
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(work)):
                return lock
        os.close(lock)


def _link_or_move(part: Path, to: Path) -> None:
    """Put a fetched file in its place; a link lets an interrupted publication find it again."""
    try:
        os.link(part, to)
    except OSError:
        os.rename(part, to)


def _forget_others(work: Path, parts: dict[str, Path]) -> None:
    """Delete what an earlier pull of another revision to the same place left."""
    kept = {part.name for part in parts.values()}
    for name in os.listdir(work):
        if name not in kept:
            (work / name).unlink(missing_ok=True)


def _require_space(work: Path, manifest: Manifest, parts: dict[str, Path]) -> None:
    there = sum(part.stat().st_size for part in parts.values() if part.exists())
    require_space(work, sum(manifest.files[name].size for name in parts) - there)


def _is_whole(path: Path) -> bool:
    """Whether the cache has a bundle that is intact."""
    try:
        verify_bundle(path)
    except FuseIndexError:
        return False
    return True


def _counter(manifest: Manifest, members: list[str], progress: Progress | None) -> Report:
    """Turn "bytes since last time" into the caller's (done, total)."""
    total, done = sum(manifest.files[name].size for name in members), 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    return report
