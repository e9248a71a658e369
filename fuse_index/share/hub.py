"""Downloads from the Hub: one commit for all files, into huggingface_hub's cache."""

from __future__ import annotations

import inspect
import logging
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fuse_index
from fuse_index.bundle.files import read_plain
from fuse_index.bundle.layout import MANIFEST, MAX_MANIFEST_BYTES
from fuse_index.bundle.manifest import FileRecord, Manifest
from fuse_index.bundle.staging import storage_error
from fuse_index.errors import BundleError, RemoteError
from fuse_index.share.failures import hub_errors
from fuse_index.share.places import Place
from fuse_index.share.sources import (
    BundleSource,
    Report,
    forget,
    not_cached,
    note,
    require_intact,
    require_size,
    too_long,
)

logger = logging.getLogger(__name__)

MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_LIBRARY = {"library_name": "fuse_index", "library_version": fuse_index.__version__}

Token = str | bool | None
"""As huggingface_hub takes it: None and True take the one that is stored, False takes none."""


def find_on_hub(place: Place, token: Token, local_files_only: bool) -> BundleSource:
    """Resolve a revision to one commit and read that commit's manifest.

    Args:
        place: the repository.
        token: see :data:`Token`.
        local_files_only: use the Hub's cache only.

    Raises:
        RemoteError: there is no such repository or revision, it is private, or there is neither a
            network nor a copy in the cache.
        BundleError: it holds no bundle, or its manifest is damaged.
    """
    from huggingface_hub import constants  # noqa: PLC0415 - only for the Hub

    asked = place.revision or MAIN
    known = _cached_snapshot(place.location, asked)
    if local_files_only or constants.HF_HUB_OFFLINE:
        why = "local_files_only" if local_files_only else "HF_HUB_OFFLINE is set"
        return _in_cache(place, known, why)
    if known is not None and known.name == asked:  # a commit never changes
        return _at_commit(place, asked, token)
    try:
        with hub_errors(str(place), "read"):
            size, commit = _ask(place.location, MANIFEST, asked, token)
    except RemoteError as error:
        if known is None or not error.unreachable:
            raise
        logger.warning("%s; using the copy of commit %s in the cache", error.given, known.name[:12])
        return _in_cache(place, known, "it cannot be reached")
    if (size or 0) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{place.location}@{commit[:12]}: {MANIFEST} has {size} bytes",
            expected=f"at most {MAX_MANIFEST_BYTES}",
            remedy="check that it is a bundle",
        )
    return _at_commit(place, commit, token)


def _cached_snapshot(repository: str, revision: str) -> Path | None:
    """Return the cached snapshot of a revision as of its last download."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - only for the Hub

    found = try_to_load_from_cache(repository, MANIFEST, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _in_cache(place: Place, folder: Path | None, why: str) -> BundleSource:
    if folder is None:
        raise not_cached(
            f"{place}: there is no such folder, the Hub's cache has no copy, and the Hub is not "
            f"asked ({why})",
            str(place),
        )
    text = read_plain(folder, MANIFEST, MAX_MANIFEST_BYTES)
    manifest = Manifest.from_bytes(text, str(folder / MANIFEST))
    return BundleSource(place.location, manifest, folder.name, folder)


def _at_commit(place: Place, commit: str, token: Token) -> BundleSource:
    remote = _Commit(place.location, commit, token)
    folder, manifest = remote.read_manifest()
    reference = folder.parents[1] / "refs" / (place.revision or MAIN)
    remember = partial(note, reference, commit.encode("ascii"))
    fetch = partial(remote.fetch, folder)
    if place.revision == commit:
        return BundleSource(remote.name, manifest, commit, folder, fetch)
    return BundleSource(remote.name, manifest, commit, folder, fetch, remember)


@dataclass(frozen=True)
class _Commit:
    """A repository at one commit."""

    repository: str
    commit: str
    token: Token

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.repository}@{self.commit[:12]}"

    def read_manifest(self) -> tuple[Path, Manifest]:
        """Return the snapshot's folder and its manifest, fetched where it is missing or damaged."""
        record = FileRecord(MAX_MANIFEST_BYTES, "")
        for again in (False, True):
            path = self._download(MANIFEST, record, lambda _: None, again)
            try:
                text = read_plain(path.parent, MANIFEST, MAX_MANIFEST_BYTES)
                return path.parent, Manifest.from_bytes(text, f"{self.name}: {MANIFEST}")
            except BundleError:
                if again:
                    forget(path)
                    raise
        raise AssertionError

    def fetch(self, folder: Path, member: str, record: FileRecord, report: Report) -> None:
        """Fetch one file into the snapshot; see :data:`~fuse_index.share.sources.Fetch`."""
        with hub_errors(self.name, "read"):
            size, _ = _ask(self.repository, member, self.commit, self.token)
        require_size(f"{self.name}: {member}", size, record)
        self._download(member, record, report)
        require_intact(f"{self.name}: {member}", folder / member, record)

    def _download(
        self, member: str, record: FileRecord, report: Report, again: bool = False
    ) -> Path:
        """Download a file in this thread, so that an interrupt ends it at once."""
        from huggingface_hub import constants, hf_hub_download  # noqa: PLC0415 - only for the Hub

        options: dict[str, Any] = {"token": self.token, "force_download": again, **_LIBRARY}
        if "tqdm_class" in inspect.signature(hf_hub_download).parameters:  # 1.0 has none
            options["tqdm_class"] = _bar(f"{self.name}: {member}", record, report)
        try:
            with hub_errors(self.name, "read"):
                found = hf_hub_download(self.repository, member, revision=self.commit, **options)
        except OSError as error:
            raise storage_error(error, Path(constants.HF_HUB_CACHE)) from error
        return Path(str(found))


def _bar(name: str, record: FileRecord, report: Report) -> Any:
    """Return a class of progress bars that shows nothing, reports bytes and refuses too many."""
    import huggingface_hub.utils  # noqa: PLC0415 - only for the Hub

    utils: Any = huggingface_hub.utils  # it re-exports what it does not list
    arrived = 0

    class Bar(utils.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal arrived
            arrived += int(n or 0)
            if arrived > record.size:
                raise too_long(name, record)
            report(int(n or 0))

        def update_transfer(self, n: float | None = 1) -> None:
            """Ignore received bytes; written bytes are counted."""

        def set_transfer_postfix_str(self, postfix: str, refresh: bool = False) -> None:
            """Show nothing."""

    return Bar


def _ask(repository: str, member: str, revision: str, token: Token) -> tuple[int | None, str]:
    """Return a file's size and commit; huggingface_hub's exceptions pass through.

    Raises:
        BundleError: the repository has no such file.
        RemoteError: the server is not a Hub.
    """
    from huggingface_hub import (  # noqa: PLC0415 - only for the Hub
        constants,
        get_hf_file_metadata,
        hf_hub_url,
    )
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    url = hf_hub_url(repository, member, revision=revision, endpoint=constants.ENDPOINT)
    options: dict[str, Any] = {"token": token, "endpoint": constants.ENDPOINT, **_LIBRARY}
    try:
        found = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT, **options)
    except EntryNotFoundError as error:
        raise BundleError(
            f"{repository}@{revision} has no {member}",
            expected="a bundle that 'fuse-index push' put there",
            remedy="check the id and the revision",
        ) from error
    commit, etag = found.commit_hash or "", found.etag or ""
    if COMMIT.fullmatch(commit) is None or _ETAG.fullmatch(etag) is None:
        raise RemoteError(
            f"{repository}: what answers at {constants.ENDPOINT} is not a Hub",
            expected="a commit and an ETag with every file",
            remedy="check HF_ENDPOINT and any proxy",
        )
    return found.size, commit
