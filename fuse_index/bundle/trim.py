"""Bundles without group tensors or indexes, or with another name or license."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fuse_index.bundle.card import render_card
from fuse_index.bundle.extend import carry
from fuse_index.bundle.files import seal
from fuse_index.bundle.layout import CARD, GROUPS, INDEX_FOLDER
from fuse_index.bundle.manifest import FileRecord, Manifest


def trim(
    manifest: Manifest,
    *,
    groups: bool = True,
    index: bool = True,
    published: Mapping[str, str] | None = None,
) -> tuple[Manifest, bytes | None]:
    """Return the manifest of a bundle without some of its files, or with another name or license.

    Args:
        manifest: of the whole bundle.
        groups: whether the group tensors are kept.
        index: whether the word indexes are kept.
        published: name and license; ``None`` leaves them as they are.

    Returns:
        The manifest and, where it is not the given one, the bytes of the card that goes with it.
    """
    files = {
        name: record
        for name, record in manifest.files.items()
        if (groups or name != GROUPS) and (index or not name.startswith(f"{INDEX_FOLDER}/"))
    }
    changed = replace(
        manifest,
        files=files,
        indexes=manifest.indexes if index else {},
        published=manifest.published if published is None else published,
    )
    if changed == manifest:
        return manifest, None
    card = render_card(changed).encode("utf-8")
    files[CARD] = FileRecord.of(card)
    return replace(changed, files=files), card


def carry_bundle(root: Path, manifest: Manifest, card: bytes | None, folder: Path) -> None:
    """Fill an empty folder with a bundle: checked files of another, its manifest and card.

    Args:
        root: the bundle whose files are linked, or copied.
        manifest: of the bundle to make, as :func:`trim` returns it.
        card: its card; ``None`` takes the one of ``root``.
        folder: the empty folder.

    Raises:
        BundleError: a file is missing or damaged.
    """
    for member, record in manifest.files.items():
        (folder / member).parent.mkdir(exist_ok=True)
        if member != CARD or card is None:
            carry(root, member, record, folder / member)
    seal(folder, manifest, card)
