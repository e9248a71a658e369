"""Uploads of a bundle to a repository of the Hub, an fsspec URL or a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuse_index.bundle.manifest import Manifest
from fuse_index.bundle.read import verify_bundle
from fuse_index.bundle.staging import check_output, staged, storage_error
from fuse_index.bundle.trim import carry_bundle, trim
from fuse_index.common.options import options as checked_options
from fuse_index.common.progress import Tick
from fuse_index.errors import OptionError
from fuse_index.share.bucket import Bucket
from fuse_index.share.places import ACCEPTED, Place, PlaceKind, Token, parse_place
from fuse_index.share.sources import checksum_of, counter

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


@checked_options()
class PushOptions:
    """How a bundle is published.

    Attributes:
        private: whether a repository of the Hub is made private; one that is there must be.
        license: the licence's identifier on the Hub (``mit``, ``apache-2.0``, ``other``, ...).
        groups: whether the group tensors go along. They are rows of the models' embedding tables.
        index: whether the word indexes go along.
        overwrite: whether a bundle at a URL or in a folder may be replaced. On the Hub a push is
            a new commit, and nothing is lost.

    Raises:
        OptionError: the licence is no identifier.
    """

    private: bool = False
    license: str | None = None
    groups: bool = True
    index: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.license is not None and _LICENSE.fullmatch(self.license) is None:
            raise OptionError(
                f"license {self.license!r}", expected="an identifier such as mit or apache-2.0"
            )


@dataclass(frozen=True)
class Pushed:
    """What :func:`push` did.

    Attributes:
        place: where the bundle is now.
        url: where a browser or fsspec finds it.
        revision: the commit of the Hub, or the checksum of the manifest elsewhere.
        manifest: as it was published.
        notes: what the user should know.
    """

    place: Place
    url: str
    revision: str
    manifest: Manifest
    notes: tuple[str, ...]


def push(
    bundle: str | os.PathLike[str],
    to: str,
    options: PushOptions | None = None,
    *,
    token: Token = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Tick | None = None,
) -> Pushed:
    """Publish a bundle, after checking all of it.

    Args:
        bundle: its folder.
        to: ``owner/name[@branch]`` of the Hub, an fsspec URL, or a folder.
        options: see :class:`PushOptions`.
        token: of the Hub; ``None`` takes the one that ``hf auth login`` stored.
        storage_options: what fsspec makes the file system with.
        progress: called with (bytes sent, bytes in all); for URLs only.

    Returns:
        Where it is now. On the Hub the card says how to load it from there, so card and manifest
        are not those of ``bundle``; all other files are.

    Raises:
        BundleError: the bundle is damaged.
        OptionError: an option or the place is malformed, or does not fit the place.
        RemoteError: the other side cannot be reached, or refuses.
        StorageError: there is something else already.
    """
    options, place = options or PushOptions(), parse_place(to)
    if place.kind is PlaceKind.FOLDER and not ({"/", "\\"} & set(to) or Path(to).is_dir()):
        raise OptionError(
            f"{to!r} is no Hub id", expected=ACCEPTED, remedy=f"a new folder is ./{to}"
        )
    if options.private and place.kind is not PlaceKind.HUB:
        raise OptionError(
            f"--private for {place}",
            expected="a Hub id",
            remedy="a bucket's own policy says who may read it",
        )
    root = Path(os.path.realpath(bundle))
    manifest = verify_bundle(root)
    said = {**manifest.published}
    if options.license is not None:
        said["license"] = options.license
    if place.kind is PlaceKind.HUB:
        said["name"] = place.location
    made, card = trim(manifest, groups=options.groups, index=options.index, published=said)
    revision, url = checksum_of(made), str(place)
    if place.kind is PlaceKind.FOLDER:
        output = check_output(place.location, options.overwrite)
        with staged(output, options.overwrite) as folder:
            carry_bundle(root, made, card, folder)
    elif place.kind is PlaceKind.URL:
        bucket = Bucket(place.location, storage_options, token)
        before = bucket.check_output(options.overwrite)
        with _sealed(root, made, card) as folder:
            size = sum(record.size for record in made.files.values())
            bucket.upload(folder, made, before, counter(size, progress))
    else:
        from fuse_index.share.hub_push import push_to_hub  # noqa: PLC0415 - loads huggingface_hub

        with _sealed(root, made, card) as folder:
            revision, url = push_to_hub(folder, made, place, options.private, token)
    return Pushed(place, url, revision, made, _notes(made, options, place))


@contextmanager
def _sealed(root: Path, manifest: Manifest, card: bytes | None) -> Iterator[Path]:
    """Yield a folder that holds exactly the files to publish: links, on the bundle's own disk."""
    if card is None:
        yield root
        return
    near = root.parent if os.access(root.parent, os.W_OK) else None
    try:
        temporary = TemporaryDirectory(prefix=f".{root.name}.pushing-", dir=near)
    except OSError as error:
        raise storage_error(error, root.parent) from error
    with temporary as folder:
        carry_bundle(root, manifest, card, Path(folder))
        yield Path(folder)


def _notes(manifest: Manifest, options: PushOptions, place: Place) -> tuple[str, ...]:
    notes = []
    if not manifest.published.get("license"):
        notes.append("the card has no license: say one with --license")
    if "groups.safetensors" in manifest.files and place.kind is not PlaceKind.FOLDER:
        notes.append(
            "the group tensors are rows of both models' embedding tables: their licenses decide "
            "whether they may be published (--no-groups leaves them out)"
        )
    for role in ("source", "target"):
        name = getattr(manifest, role).name
        if Path(name).is_absolute() or name.startswith((".", "~")):
            notes.append(f"the card names the {role} model by a local folder: {name}")
    return tuple(notes)
