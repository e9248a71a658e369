"""Adds word indexes and hidden states to an existing bundle, which is replaced in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fuse_index.bundle.card import render_card
from fuse_index.bundle.files import check_member, check_no_strangers, hashed_file, seal
from fuse_index.bundle.layout import CARD, INDEX_FOLDER, STATES_PREFIX, is_member_name
from fuse_index.bundle.manifest import FileRecord, Manifest
from fuse_index.bundle.read import read_manifest
from fuse_index.bundle.staging import require_space, staged
from fuse_index.errors import OptionError


def add_index_files(
    path: str | os.PathLike[str],
    name: str,
    files: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> Manifest:
    """Put a word index into a bundle, in place of one of the same name.

    The replacement is atomic: the other files are linked (copied where the file system has no
    links) into a sibling folder, which then takes the bundle's place. Each is checked on the way.

    Args:
        path: the bundle.
        name: of the index; its files begin with ``name + "."``.
        files: bytes (any contiguous buffer) by the file name they get under ``index/``.
        summary: what the manifest says of the index (JSON values).

    Returns:
        The manifest as written.

    Raises:
        BundleError: there is no bundle, or it is damaged.
        OptionError: a file has a name that no bundle may have.
        StorageError: it cannot be written; the bundle is as it was.
    """
    return _add(path, name, files, {name: dict(summary)})


def add_state_files(path: str | os.PathLike[str], key: str, files: Mapping[str, Any]) -> Manifest:
    """Put hidden states of words into a bundle, in place of those with the same key.

    Args:
        path: the bundle.
        key: a hash of what the states depend on.
        files: bytes (any contiguous buffer) by the name of each file.

    Returns:
        The manifest as written.

    Raises:
        BundleError: there is no bundle, or it is damaged.
        OptionError: a file has a name that no bundle may have.
        StorageError: it cannot be written; the bundle is as it was.
    """
    begin = f"{STATES_PREFIX}{key}"
    return _add(path, begin, {f"{begin}.{name}": data for name, data in files.items()}, {})


def _add(
    path: str | os.PathLike[str],
    name: str,
    files: Mapping[str, Any],
    summary: Mapping[str, dict[str, Any]],
) -> Manifest:
    """Put files whose names begin with ``name + "."`` into a bundle, in place of such."""
    members = {f"{INDEX_FOLDER}/{file}": data for file, data in files.items()}
    for member in members:
        if not is_member_name(member) or not member.startswith(f"{INDEX_FOLDER}/{name}."):
            raise OptionError(f"index file {member!r}", expected=f"index/{name}.* in plain letters")
    root = Path(os.path.realpath(path))
    manifest = read_manifest(path)
    check_no_strangers(root, manifest.files)
    kept = {
        member: record
        for member, record in manifest.files.items()
        if member != CARD and not member.startswith(f"{INDEX_FOLDER}/{name}.")
    }
    records: dict[str, FileRecord] = {}
    with staged(root, overwrite=True) as folder:
        (folder / INDEX_FOLDER).mkdir()
        require_space(folder, sum(memoryview(data).nbytes for data in members.values()))
        for member, record in kept.items():
            carry(root, member, record, folder / member)
            records[member] = record
        for member, data in members.items():
            with hashed_file(folder / member, records, member) as writer:
                writer.write(data)
        indexes = {**manifest.indexes, **summary}
        card = render_card(replace(manifest, indexes=indexes)).encode("utf-8")
        records[CARD] = FileRecord.of(card)
        written = replace(manifest, indexes=indexes, files=records)
        seal(folder, written, card)
    return written


def carry(root: Path, member: str, record: FileRecord, to: Path) -> None:
    """Check a file of a bundle and link it, or copy it.

    Args:
        root: the bundle's folder.
        member: the file's path inside it.
        record: its size and checksum by the manifest.
        to: the path to make.

    Raises:
        BundleError: the file is missing or damaged.
    """
    with os.fdopen(check_member(root, member, record), "rb") as stream:
        try:
            os.link(os.path.realpath(root / member), to)
        except OSError:
            stream.seek(0)
            with to.open("xb") as copy:
                shutil.copyfileobj(stream, copy)
                copy.flush()
                os.fsync(copy.fileno())
