"""Bundles at fsspec URLs: resumed downloads, and uploads whose manifest comes last."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fuse_index.bundle.files import READ_CHUNK
from fuse_index.bundle.jsontext import load_strict
from fuse_index.bundle.layout import FORMAT, MANIFEST, MAX_MANIFEST_BYTES, is_member_name
from fuse_index.bundle.manifest import FileRecord, Manifest
from fuse_index.bundle.read import read_manifest
from fuse_index.bundle.staging import storage_error
from fuse_index.common.cache import cache_folder
from fuse_index.errors import BundleError, RemoteError, StorageError
from fuse_index.share.failures import bucket_errors, is_about_the_disk, may_pass, message_of
from fuse_index.share.places import HUB_URL, Place, Token, hide_password
from fuse_index.share.sources import (
    BundleSource,
    Report,
    checksum_of,
    is_intact,
    not_cached,
    note,
    require_intact,
    require_size,
    too_long,
)

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2
_STAGING = ".uploading-"
_WITHOUT_FOLDERS = {
    "s3",
    "s3a",
    "gs",
    "gcs",
    "az",
    "abfs",
    "abfss",
    "adl",
    "oss",
    "oci",
    "memory",
    "hf",
}
"""Stores where making a folder is needless, and may even make a bucket of a misspelt name."""


class Bucket:
    """A folder of an fsspec file system.

    Args:
        url: such as ``s3://bucket/folder``.
        options: what the file system is made with (``anon``, ``endpoint_url``, ``token``, ...).
        token: of the Hub, for its buckets; see :data:`~fuse_index.share.places.Token`.

    Raises:
        MissingDependencyError: the package for this protocol is not installed.
        RemoteError: fsspec knows no such protocol.
    """

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, token: Token = None
    ) -> None:
        self.name = hide_password(url)
        of_hub = {"token": token} if token is not None and url.startswith(HUB_URL) else {}
        with self.errors():
            from fsspec.core import url_to_fs  # noqa: PLC0415 - only for URLs

            self._system, root = url_to_fs(url, **of_hub, **(options or {}))
            self._system.invalidate_cache()
        self._root = root.rstrip("/")
        self._has_folders = url.partition("://")[0] not in _WITHOUT_FOLDERS

    def errors(self, doing: str = "read") -> AbstractContextManager[None]:
        """Turn what the file system raises into this package's errors."""
        return bucket_errors(self.name, doing)

    def announced(self, member: str) -> int | None:
        """Return the size that the store gives a file."""
        size = self._system.info(self._path(member)).get("size")
        return size if isinstance(size, int) else None

    def fetch(self, folder: Path, member: str, record: FileRecord, report: Report) -> None:
        """Fetch one file; see :data:`~fuse_index.share.sources.Fetch`.

        Bytes that arrived before a failure stay in a hidden file beside it; the next call goes on
        from there.
        """
        from filelock import FileLock  # noqa: PLC0415 - only to fetch

        name, path = f"{self.name}: {member}", folder / member
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with FileLock(folder / ".lock"):
            if path.is_file():  # fetched by another process meanwhile
                report(record.size)
                return
            begun = part.exists()
            self._append(name, member, record, part, report)
            if begun and not is_intact(part, record):  # the earlier bytes may be the damaged ones
                report(-part.stat().st_size)
                part.unlink()
                self._append(name, member, record, part, report)
            require_intact(name, part, record)
            os.replace(part, path)

    def _append(
        self, name: str, member: str, record: FileRecord, part: Path, report: Report
    ) -> None:
        """Complete a file by requests for ranges, as long as bytes arrive."""
        begins_again = part.exists() and part.stat().st_size > record.size
        with self.errors(), part.open("wb" if begins_again else "ab") as file:
            report(file.tell())
            require_size(name, self.announced(member), record)
            while (before := file.tell()) < record.size:
                try:
                    with self._system.open(self._path(member), block_size=READ_CHUNK) as stream:
                        stream.seek(before)
                        while block := stream.read(READ_CHUNK):
                            if file.tell() + len(block) > record.size:
                                raise too_long(name, record)
                            file.write(block)
                            report(len(block))
                except Exception as error:
                    if is_about_the_disk(error):
                        part.unlink()
                    if not may_pass(error) or file.tell() <= before:
                        raise
                    logger.info("%s was cut after %d bytes; going on", name, file.tell())
                    time.sleep(_PAUSE_SECONDS)
                if file.tell() <= before:
                    raise RemoteError(
                        f"{name} ends after {before} bytes",
                        expected=f"{record.size} by the manifest",
                        remedy="fetch it again, or ask its publisher",
                    )

    def read_manifest(self) -> bytes:
        """Fetch the manifest.

        Raises:
            BundleError: there is none, or it is larger than any manifest.
            RemoteError: the store cannot be reached, or refuses.
        """
        with self.errors():
            try:
                with self._system.open(self._path(MANIFEST), "rb") as stream:
                    data: bytes = stream.read(MAX_MANIFEST_BYTES + 1)
            except FileNotFoundError as error:
                raise BundleError(
                    f"{self.name} holds no bundle: no {MANIFEST} ({message_of(error)})",
                    expected="a bundle that 'fuse-index push' put there",
                    remedy="check the spelling of the URL",
                ) from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{self.name}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes",
                remedy="check that it is a bundle",
            )
        return data

    def check_output(self, overwrite: bool) -> list[str]:
        """Check that a bundle may be written here.

        Args:
            overwrite: whether a bundle that is there may be replaced.

        Returns:
            The files of a bundle, whole or unfinished, that are here.

        Raises:
            StorageError: a bundle is here and may not be replaced, or something else is here.
            RemoteError: the store cannot be reached, or refuses.
        """
        names = self._list()
        strangers = [name for name in names if name != MANIFEST and not is_member_name(name)]
        if strangers:
            what = f"holds {strangers[0]!r}, which is not a bundle's file"
            raise StorageError(
                f"{self.name} {what if strangers[0] else 'is a file'}",
                expected="an empty place, or a bundle",
                remedy="name another place",
            )
        if MANIFEST in names and not overwrite:
            raise StorageError(
                f"{self.name} holds a bundle",
                expected="an empty place",
                remedy="name another place, or allow overwriting (--overwrite)",
            )
        if MANIFEST in names:
            self._require_bundle()
        return names

    def _require_bundle(self) -> None:
        """Refuse to replace a folder whose manifest is not a bundle's."""
        with suppress(BundleError):
            if load_strict(self.read_manifest(), MANIFEST).get("format") == FORMAT:
                return
        raise StorageError(
            f"{self.name} holds a {MANIFEST} that is not a bundle's, so it is not overwritten",
            expected="an empty place, or a bundle",
            remedy="name another place",
        )

    def upload(self, folder: Path, manifest: Manifest, before: list[str], report: Report) -> None:
        """Write a bundle here.

        Where a bundle is replaced, the new files are sent to names beside it and copied by the
        store, so that a failure while they are sent leaves the old bundle as it was. The manifest
        comes last: until then the new files are not a bundle.

        Args:
            folder: the bundle, checked.
            manifest: its manifest.
            before: files that are here, as :meth:`check_output` returned them.
            report: see :data:`~fuse_index.share.sources.Report`.

        Raises:
            RemoteError: the store cannot be reached, or refuses.
        """
        members = {**manifest.files, MANIFEST: FileRecord(len(manifest.to_bytes()), "")}
        prefix = f"{_STAGING}{secrets.token_hex(8)}/" if MANIFEST in before else ""
        sent: list[str] = []
        with self.errors("written"):
            try:
                for member, record in members.items():
                    sent.append(prefix + member)
                    self._send(folder / member, prefix + member, record, report)
                if prefix:
                    for member in members:
                        self._system.cp_file(self._path(prefix + member), self._path(member))
            except BaseException:
                self._remove([name for name in sent if prefix or name not in before])
                raise
            self._system.invalidate_cache()
            self._check_sent(members)
        self._remove(sent if prefix else [])
        self._remove([name for name in before if name not in members])

    def _send(self, path: Path, name: str, record: FileRecord, report: Report) -> None:
        to = self._path(name)
        if self._has_folders:
            self._system.makedirs(to.rpartition("/")[0], exist_ok=True)
        with path.open("rb") as source, self._system.open(to, "wb") as stream:
            while block := source.read(READ_CHUNK):
                stream.write(block)
                report(len(block))

    def _check_sent(self, members: Mapping[str, FileRecord]) -> None:
        for member, record in members.items():
            if (size := self.announced(member)) not in (None, record.size):
                raise RemoteError(
                    f"{self.name}: {member} arrived with {size} bytes",
                    expected=f"{record.size}",
                    remedy="push again with --overwrite",
                )

    def _list(self) -> list[str]:
        """Names of all files here, without unfinished uploads."""
        with self.errors("written"):
            try:
                found = self._system.find(self._root)
            except FileNotFoundError:
                return []
        names = [path[len(self._root) :].lstrip("/") for path in map(str, found)]
        return sorted(name for name in names if not name.startswith(_STAGING))

    def _remove(self, names: list[str]) -> None:
        """Delete unneeded files; a failure leaves only bytes that are never read."""
        for name in names:
            with suppress(Exception):
                self._system.rm_file(self._path(name))
        with suppress(Exception):
            for folder in {name.rpartition("/")[0] for name in names} - {"", "index"}:
                self._system.rmdir(self._path(folder))

    def _path(self, member: str) -> str:
        return f"{self._root}/{member}"


def find_in_bucket(
    place: Place,
    options: Mapping[str, Any] | None,
    local_files_only: bool,
    token: Token = None,
) -> BundleSource:
    """Read the manifest at a URL, whose checksum is the revision; files go into the cache.

    Args:
        place: the URL.
        options: what fsspec makes the file system with.
        local_files_only: use the cached copy of what the URL held when it was last read.
        token: see :class:`Bucket`.

    Raises:
        BundleError: there is no bundle, or its manifest is damaged.
        RemoteError: the store cannot be reached, or refuses; or the cache has no copy.
        StorageError: the cache cannot be written.
    """
    bundles = cache_folder() / "bundles"
    reference = bundles / "urls" / hashlib.sha256(place.location.encode()).hexdigest()
    if local_files_only:
        return _in_cache(place, reference)
    bucket = Bucket(place.location, options, token)
    text = bucket.read_manifest()
    manifest = Manifest.from_bytes(text, f"{bucket.name}: {MANIFEST}")
    revision = checksum_of(manifest)
    folder = bundles / revision
    try:
        note(folder / MANIFEST, text)
    except OSError as error:
        raise storage_error(error, folder) from error
    fetch, remember = partial(bucket.fetch, folder), partial(note, reference, revision.encode())
    return BundleSource(bucket.name, manifest, revision, folder, fetch, remember)


def _in_cache(place: Place, reference: Path) -> BundleSource:
    try:
        folder = reference.parents[1] / reference.read_text(encoding="ascii")
        manifest = read_manifest(folder)
    except (OSError, UnicodeDecodeError) as error:
        given = f"{place}: the cache has no copy, and the network is not used (local_files_only)"
        raise not_cached(given, str(place)) from error
    return BundleSource(str(place), manifest, checksum_of(manifest), folder)
