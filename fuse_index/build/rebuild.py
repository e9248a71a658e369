"""Rebuilds a bundle from its manifest and compares the bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuse_index.adapter.fit.options import FitOptions
from fuse_index.build.options import BuildOptions
from fuse_index.build.pipeline import build_bundle
from fuse_index.bundle import Bundle, Manifest, ModelIdentity, read_bundle, verify_bundle
from fuse_index.bundle.card import render_card
from fuse_index.bundle.identity import require_model
from fuse_index.bundle.layout import (
    ADAPTER,
    CARD,
    GROUPS,
    INDEX_FOLDER,
    MANIFEST,
    STATES_PREFIX,
    WORDS,
)
from fuse_index.common.progress import Progress
from fuse_index.errors import BundleError, OptionError
from fuse_index.models.embeddings import load_embeddings
from fuse_index.models.naming import ModelSource, parse_model_name
from fuse_index.share.compare import adapter_differences
from fuse_index.words.corpus.words import CorpusOptions
from fuse_index.words.table import TableOptions

_CORPUS_OPTIONS = ("encoding", "lowercase", "max_words", "min_count")
"""How text became words: nothing of it is repeated where the words come from the bundle."""


class Outcome(str, Enum):
    """Result of rebuilding a file."""

    SAME = "same"
    DIFFERS = "differs"
    NOT_REBUILT = "not rebuilt"


@dataclass(frozen=True)
class FileOutcome:
    """A file of a bundle, and whether building again gives its bytes.

    Attributes:
        name: path inside the bundle.
        outcome: of the rebuild.
        note: in what it differs, or why it was not rebuilt.
    """

    name: str
    outcome: Outcome
    note: str = ""


@dataclass(frozen=True)
class Rebuilt:
    """The result of :func:`rebuild_bundle`.

    Attributes:
        files: every file of the bundle.
        adapters: relative difference by group, where it is not zero.
        taken: what was taken from the bundle and so was not tested.
    """

    files: tuple[FileOutcome, ...]
    adapters: Mapping[str, float | None]
    taken: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether no file differs."""
        return all(file.outcome is not Outcome.DIFFERS for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"same": self.same, **asdict(self)}


def rebuild_bundle(
    bundle: str | os.PathLike[str],
    *,
    source: str | None = None,
    target: str | None = None,
    corpus: Sequence[str | Path] = (),
    word_list: str | Path | None = None,
    local_files_only: bool = False,
    progress: Progress | None = None,
) -> Rebuilt:
    """Build a bundle again from its manifest's options, and compare it file by file.

    Without a corpus or a list of words the words and counts of the bundle itself are used; then
    what depends on words that were left out is not tested. Word indexes are chosen by measured
    time, so they are not built again; their checksums are verified like all others.

    Args:
        bundle: its folder.
        source: where the source is now; ``None`` takes the name and revision in the manifest.
        target: likewise.
        corpus: the text that the bundle was built from.
        word_list: the list of words that it was built from.
        local_files_only: no network.
        progress: as for :func:`~fuse_index.build.build_bundle`.

    Raises:
        BundleError: the bundle is damaged, or does not say how it was built.
        IdentityError: a model is not the one that the bundle was built for.
        FuseIndexError: as for :func:`~fuse_index.build.build_bundle`.
    """
    verify_bundle(bundle)
    read = read_bundle(bundle)
    manifest = read.manifest
    own_words = not corpus and word_list is None
    options = options_of(manifest, own_words)
    names = {
        "source": source or _name_of(manifest.source),
        "target": target or _name_of(manifest.target),
    }
    for role, name in names.items():
        found = load_embeddings(name, local_files_only=local_files_only).identity
        require_model(role, getattr(manifest, role), found, str(bundle))
    with TemporaryDirectory(prefix="fuse_index-verify-") as folder:
        if own_words:
            word_list = _write_words(read, Path(folder) / "words.txt")
        built = build_bundle(
            names["source"],
            names["target"],
            Path(folder) / "bundle",
            corpus,
            word_list=word_list,
            options=options,
            local_files_only=local_files_only,
            progress=progress,
        )
        return _compare(read, read_bundle(built.path), own_words)


def options_of(manifest: Manifest, own_words: bool = False) -> BuildOptions:
    """Return the options that a manifest says its bundle was built with.

    Args:
        manifest: of the bundle.
        own_words: whether the words come from the bundle, which keeps all of them.

    Raises:
        BundleError: an option is missing or out of range.
    """
    given = manifest.options
    try:
        corpus = CorpusOptions(**{name: given[name] for name in _CORPUS_OPTIONS})
        return BuildOptions(
            CorpusOptions() if own_words else corpus,
            TableOptions(max_tokens=given["max_tokens"]),
            FitOptions.from_dict(given),
            groups=GROUPS in manifest.files,
        )
    except (KeyError, TypeError, OptionError) as error:
        raise BundleError(
            f"the manifest does not say how the bundle was built ({type(error).__name__}: {error})",
            expected="the options that fuse-index build records",
            remedy="build it again with this version",
        ) from error


def _name_of(model: ModelIdentity) -> str:
    """Name a model so that the revision that the bundle was built from is loaded."""
    parsed = parse_model_name(model.name)
    pinned = parsed.source is ModelSource.HUB and parsed.revision is None and model.revision
    return f"{model.name}@{model.revision}" if pinned else model.name


def _write_words(bundle: Bundle, path: Path) -> Path:
    counts = bundle.table.counts.tolist()
    if min(counts, default=1) < 1:
        raise BundleError(
            f"{bundle.path} has words that were counted 0 times",
            expected="words of a corpus",
            remedy="name the list it was built from with --words",
        )
    lines = zip(bundle.table.words, counts, strict=True)
    path.write_text("".join(f"{word}\t{count}\n" for word, count in lines), "utf-8", newline="")
    return path


def _compare(old: Bundle, new: Bundle, own_words: bool) -> Rebuilt:
    """Compare file by file, after what cannot be built again is taken over."""
    manifest, taken = _taken_over(old.manifest, new.manifest, own_words)
    card = render_card(manifest).encode("utf-8")
    adapters = adapter_differences(old.adapters, new.adapters)
    outcomes = []
    for name, record in old.manifest.files.items():
        if name.startswith(f"{INDEX_FOLDER}/"):
            states = name.startswith(f"{INDEX_FOLDER}/{STATES_PREFIX}")
            note = "hidden states are rounded as the machine does"
            note = note if states else "word indexes are chosen by measured time"
            outcomes.append(FileOutcome(name, Outcome.NOT_REBUILT, note))
        elif name == CARD:
            outcomes.append(_outcome(name, (old.path / name).read_bytes() == card))
        else:
            found = new.manifest.files.get(name)
            note = _note(name, old, new, adapters)
            outcomes.append(_outcome(name, found == record, note))
    differing = [
        key
        for key, value in manifest.to_json().items()
        if key not in ("files", "checksum") and value != old.manifest.to_json().get(key)
    ]
    note = f"in {', '.join(differing)}"
    outcomes.append(_outcome(MANIFEST, not differing, note))
    return Rebuilt(tuple(outcomes), adapters, taken)


def _taken_over(old: Manifest, new: Manifest, own_words: bool) -> tuple[Manifest, tuple[str, ...]]:
    """Take over from the bundle what depends on place, time or version."""
    options = {**new.options, "groups": old.options["groups"]}
    taken = []
    if own_words:
        options |= {name: old.options[name] for name in _CORPUS_OPTIONS}
        new = replace(new, corpus_sha256=old.corpus_sha256, left_out=old.left_out)
        taken.append("words and counts (name the text with --corpus or --words to test them)")
    if old.package_version != new.package_version:
        taken.append(f"the version {old.package_version} (this is {new.package_version})")
    for role in ("source", "target"):
        was, now = getattr(old, role), getattr(new, role)
        if (was.name, was.revision) != (now.name, now.revision):
            taken.append(f"the {role} model's name (now {now.name}, of the same hashes)")
    if old.published:
        taken.append("name and license of the publisher")
    if old.indexes:
        taken.append("word indexes and what they measured")
    manifest = replace(
        new,
        source=old.source,
        target=old.target,
        options=options,
        indexes=old.indexes,
        published=old.published,
        package_version=old.package_version,
    )
    return manifest, tuple(taken)


def _outcome(name: str, same: bool, note: str = "") -> FileOutcome:
    return FileOutcome(name, Outcome.SAME if same else Outcome.DIFFERS, "" if same else note)


def _note(name: str, old: Bundle, new: Bundle, adapters: Mapping[str, float | None]) -> str:
    if name == WORDS:
        lost = len(set(old.table.words) - set(new.table.words))
        gained = len(set(new.table.words) - set(old.table.words))
        return f"{lost} words are missing, {gained} are new"
    if name == ADAPTER:
        known = [value for value in adapters.values() if value is not None]
        other = len(adapters) - len(known)
        most = f"relative difference up to {max(known):.1e}" if known else ""
        return ", ".join(filter(None, (most, f"{other} groups of other shape" if other else "")))
    return ""
