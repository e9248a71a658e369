"""Reading a repository of the Hub: one commit for all files, through huggingface_hub."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import fuse_index
from fuse_index.bundle.layout import MANIFEST, MAX_MANIFEST_BYTES
from fuse_index.errors import BundleError, RemoteError
from fuse_index.share.download import BoundedFile
from fuse_index.share.failures import hub_errors

MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")

Token = str | bool | None
"""As huggingface_hub takes it: None and True take the one that is stored, False takes none."""


@dataclass(frozen=True)
class HubFile:
    """What the Hub says of a file.

    Attributes:
        size: bytes, where it says so.
        etag: what the Hub's cache calls its content.
        commit: of the revision that was asked for.
    """

    size: int | None
    etag: str
    commit: str


@dataclass(frozen=True)
class HubRemote:
    """The files of a repository at one commit.

    Attributes:
        repository: ``owner/name``.
        commit: 40 hex digits.
        token: see :data:`Token`.
    """

    repository: str
    commit: str
    token: Token = None
    _known: dict[str, HubFile] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.repository}@{self.commit[:12]}"

    def errors(self) -> AbstractContextManager[None]:
        """Turn what huggingface_hub raises into errors of ours."""
        return hub_errors(self.name, "read")

    def about(self, member: str) -> HubFile:
        """Ask the Hub about a file, once."""
        if member not in self._known:
            self._known[member] = ask(self.repository, member, self.commit, self.token)
        return self._known[member]

    def announced(self, member: str) -> int | None:
        """Return the size that the Hub gives a file."""
        return self.about(member).size

    def append(self, member: str, size: int | None, file: Any) -> None:
        """Write a file on from the position where ``file`` is, by a request for that range."""
        from huggingface_hub import constants, hf_hub_url  # noqa: PLC0415 - only for the Hub
        from huggingface_hub.file_download import http_get  # noqa: PLC0415

        url = hf_hub_url(self.repository, member, revision=self.commit, endpoint=constants.ENDPOINT)
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers={**_headers(self.token), "Accept-Encoding": "identity"},
            expected_size=size,
        )

    def read_manifest(self) -> bytes:
        """Fetch the manifest.

        Raises:
            BundleError: it is larger than any manifest.
            RemoteError: the Hub cannot be reached, or refuses.
        """
        with self.errors():
            size = self.announced(MANIFEST)
            if (size or 0) > MAX_MANIFEST_BYTES:
                raise BundleError(
                    f"{self.name}: {MANIFEST} has {size} bytes",
                    expected=f"at most {MAX_MANIFEST_BYTES}",
                    remedy="check that it is a bundle",
                )
            data = io.BytesIO()
            where = f"{self.name}: {MANIFEST}"
            limit = MAX_MANIFEST_BYTES if size is None else size
            self.append(MANIFEST, size, BoundedFile(data, limit, where, lambda _: None))
        return data.getvalue()


def find_commit(repository: str, revision: str | None, token: Token) -> HubRemote:
    """Resolve a revision to the commit that all files of one load are then of.

    Args:
        repository: ``owner/name``.
        revision: branch, tag or commit; ``None`` is the main branch.
        token: see :data:`Token`.

    Raises:
        RemoteError: there is no such repository or revision, it is private, or there is no network.
        BundleError: it holds no bundle.
    """
    shown = f"{repository}@{revision}" if revision else repository
    with hub_errors(shown, "read"):
        found = ask(repository, MANIFEST, revision or MAIN, token)
    remote = HubRemote(repository, found.commit, token)
    remote._known[MANIFEST] = found
    return remote


def ask(repository: str, member: str, revision: str, token: Token) -> HubFile:
    """Ask the Hub about one file; raises what huggingface_hub raises, and errors of ours.

    Raises:
        BundleError: the repository has no such file.
        RemoteError: what answered is not a Hub.
    """
    from huggingface_hub import (  # noqa: PLC0415 - only for the Hub
        constants,
        get_hf_file_metadata,
        hf_hub_url,
    )
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    url = hf_hub_url(repository, member, revision=revision, endpoint=constants.ENDPOINT)
    try:
        found = get_hf_file_metadata(
            url,
            token=token,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            headers=_headers(token),
            endpoint=constants.ENDPOINT,
        )
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
    return HubFile(found.size, etag, commit)


def _headers(token: Token) -> dict[str, str]:
    import huggingface_hub.utils  # noqa: PLC0415 - only for the Hub

    utils: Any = huggingface_hub.utils  # it re-exports what it does not list
    headers: dict[str, str] = utils.build_hf_headers(
        token=token, library_name="fuse_index", library_version=fuse_index.__version__
    )
    return headers
