"""Strict reading of untrusted bundles: nothing is used before it is checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from fuse_index.bundle.files import check_member, check_no_strangers, read_checked, read_plain
from fuse_index.bundle.groups import GroupReader
from fuse_index.bundle.identity import ModelIdentity, require_model
from fuse_index.bundle.layout import (
    ADAPTER,
    FALLBACK,
    GROUPS,
    INDEX_FOLDER,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    WORDS,
    Part,
)
from fuse_index.bundle.manifest import Manifest
from fuse_index.bundle.staging import is_staging_name
from fuse_index.bundle.tensors import (
    AdapterTensors,
    adapter_entries,
    parse_adapter,
    tube_lengths,
)
from fuse_index.bundle.wordfile import parse_words
from fuse_index.common.progress import Tick, adding
from fuse_index.errors import BundleError, OptionError
from fuse_index.words.table import WordTable

if TYPE_CHECKING:
    from torch import Tensor

Words = tuple[WordTable, NDArray[np.int64]]
"""The words of a bundle, and the group of each."""
_T = TypeVar("_T")

_DEFAULT_PARTS = (Part.WORDS, Part.ADAPTER)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that was read and checked.

    Attributes:
        path: its folder.
        manifest: its manifest.
    """

    path: Path
    manifest: Manifest
    _words: Words | None
    _adapters: AdapterTensors | None
    _groups: GroupReader | None

    @property
    def table(self) -> WordTable:
        """The words with their token ids in both models."""
        return self._read(self._words, Part.WORDS)[0]

    @property
    def word_groups(self) -> NDArray[np.int64]:
        """(n,) int64: the group of every word, a position in ``manifest.group_names``."""
        return self._read(self._words, Part.WORDS)[1]

    @property
    def adapters(self) -> dict[str, Tensor]:
        """(k, source width, target width) by group name; empty for an identity bundle.

        Groups whose map is no t-product are not among them.
        """
        return self._read(self._adapters, Part.ADAPTER).faces

    @property
    def maps(self) -> dict[str, dict[str, Tensor]]:
        """By group name, the tensors of its map beside the faces, by their names."""
        return self._read(self._adapters, Part.ADAPTER).maps

    @property
    def groups(self) -> GroupReader:
        """The third-order group tensors, read from the disk on access."""
        return self._read(self._groups, Part.GROUPS)

    def index_bytes(self, name: str) -> NDArray[np.uint8]:
        """Read a file under ``index/`` and check it: what was checked is what is returned.

        Raises:
            BundleError: the bundle has no such file, or it is damaged.
        """
        member = f"{INDEX_FOLDER}/{name}"
        if member not in self.manifest.files:
            raise BundleError(f"{self.path} has no {member}", remedy="build the index again")
        return read_checked(self.path, member, self.manifest.files[member])

    def _read(self, part: _T | None, name: Part) -> _T:
        if part is None:
            raise OptionError(
                f"the {name.value} of {self.path} were not read",
                remedy=f"pass parts=(..., {name.value!r}) to read_bundle",
            )
        return part


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read and check only the manifest of a bundle.

    Raises:
        BundleError: there is no bundle at ``path``, or the manifest is damaged.
    """
    root = _root(path)
    data = read_plain(root, MANIFEST, MAX_MANIFEST_BYTES)
    return Manifest.from_bytes(data, str(root / MANIFEST))


def read_bundle(
    path: str | os.PathLike[str],
    expect_source: ModelIdentity | None = None,
    expect_target: ModelIdentity | None = None,
    parts: Iterable[Part | str] = _DEFAULT_PARTS,
) -> Bundle:
    """Read a bundle and check everything that is read.

    Args:
        path: its folder.
        expect_source: the source model at hand; ``None`` does not compare.
        expect_target: the target model at hand; ``None`` does not compare.
        parts: what to read: "words", "adapter", "groups". Files of other parts are not looked at
            and may be missing.

    Returns:
        The bundle.

    Raises:
        BundleError: it is damaged, of another format version, or does not fit together; the message
            names the file and the tensor.
        IdentityError: it was built for another model or tokenizer; the message names both.
    """
    wanted = [_part(part) for part in parts]
    root = _root(path)
    before = _inode(root)
    try:
        return _read(root, expect_source, expect_target, wanted)
    except BundleError:
        if _inode(root) == before:
            raise
    return _read(root, expect_source, expect_target, wanted)  # it was replaced while we read it


def verify_bundle(path: str | os.PathLike[str], progress: Tick | None = None) -> Manifest:
    """Check every file of a bundle: checksums, shapes, dtypes, values.

    Args:
        path: its folder.
        progress: called with (bytes checked, bytes in total); group tensors count twice, once for
            their checksum and once for their values.

    Returns:
        The manifest.

    Raises:
        BundleError: naming the first thing that is wrong.
    """
    manifest = read_manifest(path)
    verify_files(_root(path), manifest, progress)
    return manifest


def verify_files(root: Path, manifest: Manifest, progress: Tick | None = None) -> None:
    """Check every file of a bundle whose manifest is read already, wherever it is.

    Args:
        root: its folder.
        manifest: its manifest.
        progress: as for :func:`verify_bundle`.

    Raises:
        BundleError: naming the first thing that is wrong.
    """
    check_no_strangers(root, manifest.files)
    sizes = {name: record.size for name, record in manifest.files.items()}
    report = adding(progress, sum(sizes.values()) + sizes.get(GROUPS, 0))
    for name, record in manifest.files.items():
        if name not in (WORDS, ADAPTER, GROUPS):
            os.close(check_member(root, name, record, report))
    data = read_checked(root, WORDS, manifest.files[WORDS], report)
    words = parse_words(data, manifest, str(root / WORDS))
    if ADAPTER in manifest.files:
        data = read_checked(root, ADAPTER, manifest.files[ADAPTER], report)
        entries = adapter_entries(data, manifest, str(root / ADAPTER))
        tubes = tube_lengths({name: entry.spec for name, entry in entries}, manifest)
        _require_tubes(words, tubes, manifest, str(root / ADAPTER))
    if GROUPS in manifest.files:
        groups = GroupReader(root, manifest, report)
        try:
            _require_group_tubes(words, groups, manifest, str(root / GROUPS))
            groups.verify(report)
        finally:
            groups.close()


def _read(
    root: Path,
    expect_source: ModelIdentity | None,
    expect_target: ModelIdentity | None,
    parts: list[Part],
) -> Bundle:
    manifest = read_manifest(root)
    check_no_strangers(root, manifest.files)
    for role, built_for, given in (
        ("source", manifest.source, expect_source),
        ("target", manifest.target, expect_target),
    ):
        if given is not None:
            require_model(role, built_for, given, str(root))
    words, adapters, groups = None, None, None
    if Part.WORDS in parts:
        data = read_checked(root, WORDS, manifest.files[WORDS])
        words = parse_words(data, manifest, str(root / WORDS))
    if Part.ADAPTER in parts:
        adapters = AdapterTensors({}, {})
        if not manifest.identity:
            where = str(root / ADAPTER)
            data = read_checked(root, ADAPTER, manifest.files[ADAPTER])
            entries = adapter_entries(data, manifest, where)
            adapters = parse_adapter(data, manifest, entries)
            if words is not None:
                tubes = tube_lengths({name: entry.spec for name, entry in entries}, manifest)
                _require_tubes(words, tubes, manifest, str(root / ADAPTER))
    if Part.GROUPS in parts:
        groups = GroupReader(root, manifest)
        if words is not None:
            _require_group_tubes(words, groups, manifest, str(root / GROUPS))
    return Bundle(root, manifest, words, adapters, groups)


def _require_group_tubes(words: Words, groups: GroupReader, manifest: Manifest, where: str) -> None:
    for side in ("source", "target"):
        tubes = [groups.shapes[f"{side}.{name}"][1] for name in manifest.group_names]
        _require_tubes(words, tubes, manifest, where, free=())


def _require_tubes(
    words: Words,
    tubes: Sequence[int],
    manifest: Manifest,
    where: str,
    free: Sequence[str] = (FALLBACK,),
) -> None:
    """Refuse a group with a word of more tokens than its tensor has.

    Args:
        words: the table, and the group of every word.
        tubes: of the tensor of every group.
        manifest: of the bundle.
        where: the file of the tensors.
        free: groups whose tensors serve words of any length.

    Raises:
        BundleError: naming the group.
    """
    table, groups = words
    longest = np.zeros(len(tubes), np.int64)
    np.maximum.at(longest, groups, table.shapes.max(axis=1, initial=0))
    for name, k, most in zip(manifest.group_names, tubes, longest.tolist(), strict=True):
        if most > k and name not in free:
            raise BundleError(
                f"{where}: group {name!r} has words of {most} tokens, but tensors of {k}",
                remedy="fetch or build the bundle again",
            )


def _part(part: Part | str) -> Part:
    try:
        return Part(part)
    except ValueError:
        raise OptionError(f"part {part!r}", expected=f"one of {[p.value for p in Part]}") from None


def _root(path: str | os.PathLike[str]) -> Path:
    root = Path(path)
    if is_staging_name(root.name):
        raise BundleError(
            f"{root} is what an interrupted build left behind",
            remedy="build again; the next build to the same place removes it",
        )
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise BundleError(f"bundle {root} {what}", expected="a folder that fuse-index build made")
    if not (root / MANIFEST).exists():
        raise BundleError(
            f"{root} is not a bundle: it has no {MANIFEST}",
            expected="a folder that fuse-index build made",
        )
    return root


def _inode(root: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino
