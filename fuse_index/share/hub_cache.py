"""The Hub's own cache, shared with every library that uses it, filled with checked files only.

The layout is the one that the Hub documents (https://huggingface.co/docs/hub/local-cache): content
under ``blobs/ETAG``, links to it under ``snapshots/COMMIT/``, a commit's hash in ``refs/REVISION``.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from fuse_index.bundle.files import read_plain
from fuse_index.bundle.layout import MANIFEST, MAX_MANIFEST_BYTES
from fuse_index.bundle.manifest import FileRecord, Manifest
from fuse_index.bundle.staging import storage_error
from fuse_index.errors import FuseIndexError
from fuse_index.share.download import Report, fetch, is_intact, locked
from fuse_index.share.hub import COMMIT, HubRemote


class HubCache:
    """The cached files of one repository.

    Args:
        repository: ``owner/name``.
    """

    def __init__(self, repository: str) -> None:
        from huggingface_hub import constants  # noqa: PLC0415 - only for the Hub
        from huggingface_hub.file_download import repo_folder_name  # noqa: PLC0415

        root = Path(constants.HF_HUB_CACHE).expanduser()
        folder = repo_folder_name(repo_id=repository, repo_type="model")
        self.folder = root / folder
        self._lock = root / ".locks" / folder / "fuse_index.lock"

    def snapshot(self, commit: str) -> Path:
        """Return the folder of a commit's files."""
        return self.folder / "snapshots" / commit

    def commit_of(self, revision: str) -> str | None:
        """Return the commit that a revision was when it was last fetched; None if it never was."""
        commit = revision
        if COMMIT.fullmatch(revision) is None:
            try:
                commit = (self.folder / "refs" / revision).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError):
                return None
        known = COMMIT.fullmatch(commit) is not None and self.holds(commit, MANIFEST)
        return commit if known else None

    def holds(self, commit: str, member: str) -> bool:
        """Whether a file of a commit is there; what is in it is checked by who reads it."""
        return (self.snapshot(commit) / member).is_file()

    def read_manifest(self, commit: str) -> tuple[bytes, Manifest] | None:
        """Return a commit's manifest, as text and parsed; None if it is not there, or damaged."""
        path = self.snapshot(commit)
        try:
            text = read_plain(path, MANIFEST, MAX_MANIFEST_BYTES)
            return text, Manifest.from_bytes(text, str(path / MANIFEST))
        except (OSError, FuseIndexError):
            return None

    def fill(
        self,
        remote: HubRemote,
        revision: str,
        manifest: tuple[bytes, Manifest],
        members: list[str],
        report: Report,
        *,
        again: bool = False,
    ) -> Path:
        """Fetch what is not there, and only then let the revision be that commit.

        Args:
            remote: the repository at a commit.
            revision: what was asked for.
            manifest: the commit's manifest, as text and parsed.
            members: the files wanted.
            report: see :data:`~fuse_index.share.download.Report`.
            again: whether files that are there are checked too, and fetched again when damaged.

        Returns:
            The commit's folder.

        Raises:
            FuseIndexError: as :func:`~fuse_index.share.download.fetch`.
        """
        text, parsed = manifest
        if self._is_filled(remote.commit, revision, manifest, members, again):
            report(sum(parsed.files[member].size for member in members))
            return self.snapshot(remote.commit)  # without a lock: the cache may be read-only
        with locked(self._lock):
            for member in members:
                record = parsed.files[member]
                if self._has(remote.commit, member, record, again):
                    report(record.size)
                else:
                    self._fetch(remote, member, record, report)
            try:
                if self.read_manifest(remote.commit) != manifest:
                    self._put_manifest(remote, text)
                if revision != remote.commit:
                    replace_file(self.folder / "refs" / revision, remote.commit.encode("ascii"))
            except OSError as error:
                raise storage_error(error, self.folder) from error
        return self.snapshot(remote.commit)

    def _is_filled(
        self,
        commit: str,
        revision: str,
        manifest: tuple[bytes, Manifest],
        members: list[str],
        again: bool,
    ) -> bool:
        """Whether nothing has to be written."""
        if self.commit_of(revision) != commit or self.read_manifest(commit) != manifest:
            return False
        files, folder = manifest[1].files, self.snapshot(commit)
        if again:
            return all(is_intact(folder / member, files[member]) for member in members)
        return all(self.holds(commit, member) for member in members)

    def _has(self, commit: str, member: str, record: FileRecord, again: bool) -> bool:
        if not self.holds(commit, member):
            return False
        path = self.snapshot(commit) / member
        if not again or is_intact(path, record):
            return True
        content = Path(os.path.realpath(path))
        path.unlink()
        if content.parent == Path(os.path.realpath(self.folder / "blobs")):
            content.unlink(missing_ok=True)
        return False

    def _fetch(self, remote: HubRemote, member: str, record: FileRecord, report: Report) -> None:
        with remote.errors():
            etag = remote.about(member).etag
        blob = self.folder / "blobs" / etag
        try:
            blob.parent.mkdir(parents=True, exist_ok=True)
            if is_intact(blob, record):
                report(record.size)
            else:
                part = blob.with_name(f"{etag}.fuse_index.incomplete")
                fetch(remote, member, record, part, report)
                os.replace(part, blob)
            _link(blob, self.snapshot(remote.commit) / member)
        except OSError as error:
            raise storage_error(error, self.folder) from error

    def _put_manifest(self, remote: HubRemote, text: bytes) -> None:
        with remote.errors():
            blob = self.folder / "blobs" / remote.about(MANIFEST).etag
        replace_file(blob, text)
        _link(blob, self.snapshot(remote.commit) / MANIFEST)


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file in one step."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.incomplete")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _link(blob: Path, pointer: Path) -> None:
    """Make a snapshot's file: a relative link, or a copy where the system has no links."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    part = pointer.with_name(f".{pointer.name}.{secrets.token_hex(4)}")
    try:
        with suppress(FileNotFoundError):
            if pointer.samefile(blob):
                return
        try:
            part.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            shutil.copyfile(blob, part)
        os.replace(part, pointer)
    finally:
        part.unlink(missing_ok=True)
