"""Where a bundle is fetched from, resolved to one revision, with its manifest read and checked."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuse_index.bundle.extend import carry
from fuse_index.bundle.layout import MANIFEST
from fuse_index.bundle.manifest import FileRecord, Manifest
from fuse_index.bundle.read import read_manifest
from fuse_index.bundle.staging import storage_error
from fuse_index.common.cache import cache_folder
from fuse_index.errors import BundleError, RemoteError
from fuse_index.share.bucket import Bucket
from fuse_index.share.download import Remote, Report, fetch
from fuse_index.share.folder import FolderRemote
from fuse_index.share.hub import MAIN, HubRemote, Token, find_commit
from fuse_index.share.hub_cache import HubCache, replace_file
from fuse_index.share.places import Place, PlaceKind

logger = logging.getLogger(__name__)

GROUPS_KEPT, INDEX_KEPT = "-groups", "-index"


@dataclass(frozen=True)
class Source:
    """A bundle at one revision.

    Attributes:
        remote: its files; ``None`` where only a cache may be asked.
        text: the manifest as it came.
        manifest: what the bundle says of itself.
        revision: the commit of the Hub, or the checksum of the manifest elsewhere.
    """

    remote: Remote | None
    text: bytes
    manifest: Manifest
    revision: str

    def fetch(self, member: str, record: FileRecord, part: Path, report: Report) -> None:
        """Fetch and check one file; see :func:`~fuse_index.share.download.fetch`.

        Raises:
            RemoteError: it is not there, or there is nobody to ask.
        """
        if self.remote is not None:
            fetch(self.remote, member, record, part, report)


@dataclass(frozen=True)
class HubSource(Source):
    """A repository of the Hub at one commit, seen through the Hub's cache.

    Attributes:
        repository: ``owner/name``.
        asked: the revision that was asked for.
    """

    repository: str
    asked: str

    @property
    def cache(self) -> HubCache:
        """The repository's cached files."""
        return HubCache(self.repository)

    def fetch(self, member: str, record: FileRecord, part: Path, report: Report) -> None:
        """Link or copy a file that the Hub's cache holds, or else fetch it."""
        if not part.exists() and self._borrow(member, record, part):
            report(record.size)
        elif self.remote is not None:
            fetch(self.remote, member, record, part, report)
        else:
            raise self._not_in_cache(member)

    def _borrow(self, member: str, record: FileRecord, to: Path) -> bool:
        """Take a file from the Hub's cache; False where it is not there, or damaged."""
        if not self.cache.holds(self.revision, member):
            return False
        try:
            carry(self.cache.snapshot(self.revision), member, record, to)
        except BundleError:
            return False
        return True

    def fill(self, members: list[str], report: Report, *, again: bool = False) -> Path:
        """Bring files into the Hub's cache; see :meth:`HubCache.fill`.

        Raises:
            RemoteError: a file is not there, and the Hub may not or cannot be asked.
        """
        if isinstance(self.remote, HubRemote):
            manifest = self.text, self.manifest
            return self.cache.fill(self.remote, self.asked, manifest, members, report, again=again)
        for member in members:
            if not self.cache.holds(self.revision, member):
                raise self._not_in_cache(member)
        return self.cache.snapshot(self.revision)

    def _not_in_cache(self, member: str) -> RemoteError:
        return RemoteError(
            f"{self.repository}@{self.revision[:12]}: the Hub's cache has no {member}",
            expected="a copy that was pulled where there is a network",
            remedy=f"run 'fuse-index pull {self.repository}' there",
        )


def find_source(
    place: Place, token: Token, storage_options: Mapping[str, Any] | None, local_files_only: bool
) -> Source:
    """Resolve a place to one revision and read its manifest.

    Args:
        place: where the bundle is.
        token: of the Hub.
        storage_options: what fsspec makes the file system with.
        local_files_only: ask a cache, and nobody else.

    Raises:
        RemoteError: it is not there, may not be read, or cannot be reached.
        BundleError: there is no bundle, or its manifest is damaged.
    """
    if place.kind is PlaceKind.HUB:
        return _find_on_hub(place, token, local_files_only)
    if place.kind is PlaceKind.FOLDER:
        return _read(FolderRemote(place.location))
    if local_files_only:
        return _read(FolderRemote(cached_copy(place)))
    return _read(Bucket(place.location, storage_options))


def _read(remote: FolderRemote | Bucket) -> Source:
    text = remote.read_manifest()
    manifest = Manifest.from_bytes(text, f"{remote.name}: {MANIFEST}")
    return Source(remote, text, manifest, checksum_of(manifest))


def checksum_of(manifest: Manifest) -> str:
    """Return the checksum over a manifest, which all files of its bundle go into."""
    return str(manifest.to_json()["checksum"])


def _find_on_hub(place: Place, token: Token, local_files_only: bool) -> HubSource:
    from huggingface_hub import constants  # noqa: PLC0415 - only for the Hub

    asked, cache = place.revision or MAIN, HubCache(place.location)
    known = cache.commit_of(asked)
    if local_files_only or constants.HF_HUB_OFFLINE:
        why = "local_files_only" if local_files_only else "HF_HUB_OFFLINE is set"
        return _find_in_cache(place, asked, known, why)
    if known == asked and (found := cache.read_manifest(asked)) is not None:
        text, manifest = found  # a commit never changes, so the Hub need not be asked
        remote = HubRemote(place.location, asked, token)
        return HubSource(remote, text, manifest, asked, place.location, asked)
    try:
        remote = find_commit(place.location, place.revision, token)
    except RemoteError as error:
        if known is None or not error.unreachable:
            raise
        logger.warning("%s; using the copy of commit %s in the cache", error.given, known[:12])
        return _find_in_cache(place, asked, known, "it cannot be reached")
    found = cache.read_manifest(remote.commit)
    text = remote.read_manifest() if found is None else found[0]
    manifest = Manifest.from_bytes(text, f"{remote.name}: {MANIFEST}")
    return HubSource(remote, text, manifest, remote.commit, place.location, asked)


def _find_in_cache(place: Place, asked: str, commit: str | None, why: str) -> HubSource:
    cache = HubCache(place.location)
    found = cache.read_manifest(commit) if commit else None
    if commit is None or found is None:
        raise RemoteError(
            f"{place}: there is no such folder, the Hub's cache has no copy, and the Hub is not "
            f"asked ({why})",
            expected="a copy that was pulled where there is a network",
            remedy=f"run 'fuse-index pull {place}' there",
        )
    return HubSource(None, *found, commit, place.location, asked)


def cache_entry(manifest: Manifest, *, groups: bool, index: bool) -> Path:
    """Return where the cache keeps a bundle of a URL, with or without its optional files."""
    suffix = (GROUPS_KEPT if groups else "") + (INDEX_KEPT if index else "")
    return cache_folder() / "bundles" / f"{checksum_of(manifest)}{suffix}"


def _reference(place: Place) -> Path:
    key = hashlib.sha256(place.location.encode()).hexdigest()
    return cache_folder() / "bundles" / "urls" / key


def remember(place: Place, manifest: Manifest) -> None:
    """Note what a URL held, for those who may not ask it.

    Raises:
        StorageError: the cache cannot be written.
    """
    path = _reference(place)
    try:
        replace_file(path, checksum_of(manifest).encode("ascii"))
    except OSError as error:
        raise storage_error(error, path) from error


def cached_copy(place: Place) -> Path:
    """Return the fullest cached copy of what a URL held when it was last asked.

    Raises:
        RemoteError: there is none.
    """
    path, found = _reference(place), None
    try:
        checksum = path.read_text(encoding="ascii")
        folders = [
            item
            for item in sorted(os.listdir(path.parents[1]), key=len, reverse=True)
            if item.startswith(checksum) and checksum
        ]
        found = path.parents[1] / folders[0] if folders else None
    except OSError:
        pass
    if found is None:
        raise RemoteError(
            f"{place}: the cache has no copy, and nobody is asked (local_files_only)",
            expected="a copy that was pulled where there is a network",
            remedy=f"run 'fuse-index pull {place}' there",
        )
    read_manifest(found)
    return found
