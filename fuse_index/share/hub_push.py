"""Uploads of a bundle to a repository of the Hub, in one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fuse_index
from fuse_index.bundle.layout import CARD, MANIFEST, is_member_name
from fuse_index.bundle.manifest import Manifest
from fuse_index.errors import OptionError, RemoteError, StorageError
from fuse_index.share.failures import hub_errors
from fuse_index.share.hub import COMMIT, Token
from fuse_index.share.places import Place

_FRESH = {".gitattributes", CARD, "LICENSE", "LICENSE.md", "LICENSE.txt"}
"""Files that a repository without a bundle may hold."""


def push_to_hub(
    folder: Path, manifest: Manifest, place: Place, private: bool, token: Token
) -> tuple[str, str]:
    """Make the repository if need be, and commit a bundle to it.

    Args:
        folder: the bundle, checked.
        manifest: its manifest.
        place: the repository; its revision is the branch to commit to, made where it is missing.
        private: whether a new repository is private; one that is there must be.
        token: see :data:`~fuse_index.share.hub.Token`.

    Returns:
        The commit, and the page that shows it.

    Raises:
        OptionError: the revision is a commit, to which nothing can be added.
        RemoteError: the Hub cannot be reached, or refuses.
        StorageError: the repository holds something else than a bundle.
    """
    from huggingface_hub import HfApi, constants  # noqa: PLC0415 - only for the Hub

    if place.revision is not None and COMMIT.fullmatch(place.revision):
        raise OptionError(f"{place} is a commit", expected="a branch to commit to")
    api = HfApi(
        endpoint=constants.ENDPOINT,
        token=token,
        library_name="fuse_index",
        library_version=fuse_index.__version__,
    )
    with hub_errors(str(place), "written"):
        api.whoami()  # refuses a wrong token before anything is made
        info = _prepare(api, place, private)
        done = api.create_commit(
            place.location,
            _operations(folder, manifest, info),
            commit_message=f"Bundle of {manifest.words:,} words, fuse_index "
            f"{manifest.package_version}",
            revision=place.revision,
            parent_commit=info.sha,
        )
    return str(done.oid), f"{constants.ENDPOINT}/{place.location}/tree/{done.oid}"


def _prepare(api: Any, place: Place, private: bool) -> Any:
    """Make the repository and branch if missing, and return what the Hub says of the branch."""
    from huggingface_hub.errors import RepositoryNotFoundError  # noqa: PLC0415 - only for the Hub

    try:
        info = api.model_info(place.location)
    except RepositoryNotFoundError:
        api.create_repo(place.location, private=private, exist_ok=True)
        info = api.model_info(place.location)
    if private and not info.private:
        raise RemoteError(
            f"{place.location} is public",
            expected="a private repository (--private)",
            remedy="make it private on its settings page, or push to another id",
        )
    if place.revision is not None:
        api.create_branch(place.location, branch=place.revision, exist_ok=True)
        info = api.model_info(place.location, revision=place.revision)
    names = _names(info)
    others = [name for name in names if name not in _FRESH and not is_member_name(name)]
    if MANIFEST not in names and others:
        raise StorageError(
            f"{place} holds {others[0]!r} and no bundle",
            expected="a new repository, or one of a bundle",
            remedy="push to another id",
        )
    return info


def _operations(folder: Path, manifest: Manifest, info: Any) -> list[Any]:
    """List what the commit adds, and what it deletes of the bundle that is there."""
    from huggingface_hub import (  # noqa: PLC0415 - only for the Hub
        CommitOperationAdd,
        CommitOperationDelete,
    )

    members = [*manifest.files, MANIFEST]
    old = [name for name in _names(info) if is_member_name(name) and name not in members]
    return [
        *(CommitOperationAdd(name, str((folder / name).resolve())) for name in members),
        *(CommitOperationDelete(name, is_folder=False) for name in old),
    ]


def _names(info: Any) -> list[str]:
    return [str(sibling.rfilename) for sibling in info.siblings or []]
