"""Downloads of a bundle from a hub, a bucket or a folder: checked, and published whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fuse_index.bundle.layout import ADAPTER, CARD, WORDS
from fuse_index.bundle.manifest import Manifest
from fuse_index.bundle.read import read_manifest, verify_files
from fuse_index.bundle.staging import check_output, staged
from fuse_index.bundle.trim import carry_bundle, trim
from fuse_index.common.progress import Tick
from fuse_index.errors import OptionError
from fuse_index.share.bucket import find_in_bucket
from fuse_index.share.places import ACCEPTED, Place, PlaceKind, Token, parse_place
from fuse_index.share.sources import BundleSource, checksum_of


@dataclass(frozen=True)
class Pulled:
    """What :func:`pull` did.

    Attributes:
        path: the bundle's folder.
        manifest: what it says of itself.
        place: where it came from.
        revision: the commit of the Hub, or the checksum of the manifest elsewhere.
        missing: files that the manifest lists and that were left out (in a cache only).
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
    progress: Tick | None = None,
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
        local_files_only: use the cache only, no network.
        progress: called with (bytes there, bytes in all).

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
    source = _find(place, token, storage_options, local_files_only)
    whole = source.manifest
    made, card = trim(whole, groups=groups, index=index)
    wanted = [member for member in made.files if member != CARD or card is None or output is None]
    path = source.folder
    if place.kind is not PlaceKind.FOLDER:
        source.fill(wanted, progress, check=True)
    if output is None:
        there = {name: record for name, record in whole.files.items() if (path / name).is_file()}
        verify_files(path, replace(whole, files=there))
        missing = tuple(sorted(set(whole.files) - set(there)))
        return Pulled(path, whole, place, source.revision, missing)
    check_output(output, overwrite)  # another pull may have made it meanwhile
    with staged(output, overwrite) as folder:
        carry_bundle(path, made, card, folder)
        verify_files(folder, made)
    return Pulled(output, made, place, source.revision)


def locate(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: Token = None,
    storage_options: Mapping[str, Any] | None = None,
    local_files_only: bool = False,
    progress: Tick | None = None,
) -> Path:
    """Find a bundle for reading its words and adapters, fetching those where needed.

    Args:
        name: a folder, which is returned as it is; a Hub id; or an fsspec URL.
        revision: as for :func:`pull`.
        token: as for :func:`pull`.
        storage_options: as for :func:`pull`.
        local_files_only: use the cache only, no network.
        progress: called with (bytes there, bytes in all).

    Returns:
        A folder that :func:`~fuse_index.bundle.read_bundle` reads.

    Raises:
        FuseIndexError: as for :func:`pull`.
    """
    place = parse_place(name, revision)
    if place.kind is PlaceKind.FOLDER:
        return Path(place.location)
    source = _find(place, token, storage_options, local_files_only)
    members = [member for member in (WORDS, ADAPTER) if member in source.manifest.files]
    return source.fill(members, progress)


def _find(
    place: Place, token: Token, storage_options: Mapping[str, Any] | None, local_files_only: bool
) -> BundleSource:
    """Resolve a place to one revision and read its manifest."""
    if place.kind is PlaceKind.HUB:
        from fuse_index.share.hub import find_on_hub  # noqa: PLC0415 - loads huggingface_hub

        return find_on_hub(place, token, local_files_only)
    if place.kind is PlaceKind.URL:
        return find_in_bucket(place, storage_options, local_files_only, token)
    folder = Path(place.location)
    manifest = read_manifest(folder)
    return BundleSource(str(place), manifest, checksum_of(manifest), folder)
