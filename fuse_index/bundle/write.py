"""Writing a bundle: all of it or nothing, the same bytes for the same content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fuse_index
from fuse_index.bundle.card import render_card
from fuse_index.bundle.files import READ_CHUNK, hashed_file, seal
from fuse_index.bundle.groups import GroupTensor, group_sources
from fuse_index.bundle.identity import ModelIdentity
from fuse_index.bundle.layout import (
    ADAPTER,
    CARD,
    FALLBACK,
    GROUPS,
    INDEX_FOLDER,
    WORDS,
    order_groups,
)
from fuse_index.bundle.manifest import FileRecord, GroupRecord, Manifest
from fuse_index.bundle.staging import check_output, require_space, staged
from fuse_index.bundle.tensorfile import TensorSource, file_size, write_tensors
from fuse_index.bundle.tensors import adapter_sources
from fuse_index.bundle.wordfile import group_position, word_sources
from fuse_index.common.progress import Add, Tick, adding
from fuse_index.errors import OptionError
from fuse_index.words.table import Blocks

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BundleContents:
    """Everything that goes into a bundle.

    Attributes:
        source: the source model; its embedding hash must be known.
        target: the target model; its embedding hash must be known.
        table: the words with their token ids in both models, in memory or in parts.
        adapters: (k, source width, target width) by group name: "1x2" or "x2", and "fallback".
            Empty for a bundle of one model with itself (``identity``).
        corpus_sha256: ``WordCounts.sha256()`` of the words that were counted.
        options: how it was built; anything :func:`~fuse_index.bundle.jsontext.plain` takes.
        left_out: number of words left out, by reason.
        fallbacks: groups without an adapter of their own, with the reason.
        quality: the quality report: by group, a mapping of figures.
        groups: the group tensors, made while they are written
            (:func:`~fuse_index.bundle.groups.embed_groups`); ``None`` leaves them out.
        identity: whether source and target are the same model, so that the adapter is the identity.
        index_files: files to copy to ``index/``, by the name they get there.
        indexes: reports of the word indexes, by name (JSON values).
        published: "name" and "license", if published.
        maps: by group, the tensors of its map beside the faces
            (:data:`~fuse_index.bundle.kinds.FIELDS`).
        kinds: the kind of every group's map that is not ``circulant``.
        selection: held-out relative errors by group and kind, where several kinds were tried.
        package_version: recorded in the manifest.
    """

    source: ModelIdentity
    target: ModelIdentity
    table: Blocks
    adapters: Mapping[str, Tensor]
    corpus_sha256: str
    options: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[GroupTensor] | None = None
    identity: bool = False
    index_files: Mapping[str, Path] = field(default_factory=dict)
    indexes: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    selection: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    package_version: str = fuse_index.__version__

    def __post_init__(self) -> None:
        for role in ("source", "target"):
            if not getattr(self, role).embedding_hash:
                raise OptionError(
                    f"the {role} model has no embedding hash", expected="hash_embeddings(table)"
                )
        if self.identity and self.adapters:
            raise OptionError(
                f"an identity bundle with adapters {sorted(self.adapters)}", expected="none"
            )
        if not self.identity and FALLBACK not in self.adapters:
            raise OptionError(
                f"adapters {sorted(self.adapters)}", expected=f"{FALLBACK!r} among them"
            )

    @property
    def group_names(self) -> tuple[str, ...]:
        """Group names in the order the bundle stores: those of the adapters, or of the words."""
        if not self.identity:
            return order_groups({*self.adapters, *self.maps})
        return order_groups({f"{p}x{q}" for p, q in self.table.sizes()})


def write_bundle(
    path: str | os.PathLike[str],
    contents: BundleContents,
    overwrite: bool = False,
    progress: Tick | None = None,
) -> Manifest:
    """Write a bundle.

    The folder appears at ``path`` complete or not at all. With ``overwrite`` an existing bundle is
    swapped for the new one, in one step where the system can. Group tensors are streamed.

    Args:
        path: the folder to make; missing parents are made too.
        contents: what goes in.
        overwrite: whether an existing bundle may be replaced. Anything but a bundle never is.
        progress: called with (bytes written, bytes in total).

    Returns:
        The manifest as written.

    Raises:
        OptionError: contents contradict each other.
        ShapeError: a tensor has a shape or dtype that does not fit, or an adapter is not finite.
        StorageError: the folder exists, the disk is full, permission is missing; nothing is left.
    """
    output = check_output(path, overwrite)
    names = contents.group_names
    words = [0] * len(names)
    for (p, q), count in contents.table.sizes().items():
        words[group_position(names, p, q)] += count
    records = tuple(GroupRecord(*pair) for pair in zip(names, words, strict=True))
    draft = _draft(contents, records)
    files = _tensor_files(contents, draft)
    with staged(output, overwrite) as folder:
        total = _total(files, contents.index_files)
        require_space(folder, total)
        return _fill(folder, files, contents.index_files, draft, adding(progress, total))


def _tensor_files(contents: BundleContents, draft: Manifest) -> dict[str, list[TensorSource]]:
    """Check all tensors before anything is written, and assign them to files."""
    files = {WORDS: word_sources(contents.table, draft)}
    widths = {"source": contents.source.width, "target": contents.target.width}
    if not contents.identity:
        files[ADAPTER] = adapter_sources(contents.adapters, contents.maps, draft)
    if contents.groups is not None:
        files[GROUPS] = group_sources(contents.groups, draft.groups, widths)
    return files


def _draft(contents: BundleContents, groups: tuple[GroupRecord, ...]) -> Manifest:
    """Make the manifest without the true records of files."""
    unknown = FileRecord(0, "0" * 64)
    return Manifest(
        source=contents.source,
        target=contents.target,
        groups=groups,
        files={WORDS: unknown} if contents.identity else {WORDS: unknown, ADAPTER: unknown},
        corpus_sha256=contents.corpus_sha256,
        identity=contents.identity,
        options=contents.options,
        left_out=contents.left_out,
        fallbacks=contents.fallbacks,
        quality=contents.quality,
        indexes=contents.indexes,
        published=contents.published,
        kinds=contents.kinds,
        selection=contents.selection,
        package_version=contents.package_version,
    )


def _fill(
    folder: Path,
    files: Mapping[str, Sequence[TensorSource]],
    index_files: Mapping[str, Path],
    draft: Manifest,
    add: Add,
) -> Manifest:
    records: dict[str, FileRecord] = {}
    for name, sources in files.items():
        with hashed_file(folder / name, records, name, add) as writer:
            write_tensors(writer, sources)
    for name, path in index_files.items():
        (folder / INDEX_FOLDER).mkdir(exist_ok=True)
        member = f"{INDEX_FOLDER}/{name}"
        with hashed_file(folder / member, records, member, add) as writer, path.open("rb") as file:
            shutil.copyfileobj(file, writer, READ_CHUNK)
    card = render_card(draft).encode("utf-8")
    manifest = replace(draft, files=records | {CARD: FileRecord.of(card)})
    seal(folder, manifest, card)
    return manifest


def _total(files: Mapping[str, Sequence[TensorSource]], index_files: Mapping[str, Path]) -> int:
    tensors = sum(file_size([source.spec for source in sources]) for sources in files.values())
    return tensors + sum(path.stat().st_size for path in index_files.values())
