"""The manifest of a bundle, with a checksum over it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import FailFast
from typing_extensions import NotRequired, TypedDict

from fuse_index.bundle.identity import ModelIdentity, is_sha256
from fuse_index.bundle.jsontext import (
    content_digest,
    dump_pretty,
    load_strict,
    plain,
    require_schema,
)
from fuse_index.bundle.kinds import CIRCULANT, check_kinds
from fuse_index.bundle.layout import (
    ADAPTER,
    FALLBACK,
    FORMAT,
    FORMAT_VERSION,
    FORMAT_VERSION_OF_KINDS,
    MAX_FILES,
    MAX_GROUPS,
    WORDS,
    is_member_name,
    order_groups,
    size_limit,
)
from fuse_index.common.stored import EXACT, at_most
from fuse_index.errors import BundleError, OptionError

_FETCH_AGAIN = "fetch or build the bundle again"


@dataclass(frozen=True)
class FileRecord:
    """Size and checksum of one file of a bundle.

    Attributes:
        size: bytes.
        sha256: of the whole file, hex.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> FileRecord:
        """Return the record of a file with this content."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class GroupRecord:
    """One word group: its name and how many words of the table use it."""

    name: str
    words: int


class _ModelJson(TypedDict):
    __pydantic_config__ = EXACT  # type: ignore[misc]

    name: str
    revision: str
    tokenizer_hash: str
    embedding_hash: str
    width: int
    vocabulary_size: int


class _GroupJson(TypedDict):
    __pydantic_config__ = EXACT  # type: ignore[misc]

    name: str
    words: int


class _FileJson(TypedDict):
    __pydantic_config__ = EXACT  # type: ignore[misc]

    size: int
    sha256: str


class _ManifestJson(TypedDict):
    """What ``manifest.json`` holds; ranges are those of the classes made from it."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    format: str
    format_version: int
    package_version: str
    source: _ModelJson
    target: _ModelJson
    identity: bool
    groups: Annotated[list[_GroupJson], FailFast(), at_most(MAX_GROUPS)]
    options: dict[str, Any]
    corpus_sha256: str
    left_out: Annotated[dict[str, int], at_most(MAX_GROUPS)]
    fallbacks: Annotated[dict[str, str], at_most(MAX_GROUPS)]
    quality: dict[str, Any]
    files: Annotated[dict[str, _FileJson], at_most(MAX_FILES)]
    indexes: NotRequired[Annotated[dict[str, dict[str, Any]], at_most(MAX_FILES)]]
    published: NotRequired[Annotated[dict[str, str], at_most(2)]]
    kinds: NotRequired[Annotated[dict[str, str], at_most(MAX_GROUPS)]]
    selection: NotRequired[Annotated[dict[str, dict[str, float]], at_most(MAX_GROUPS)]]
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle is, from what it was built, and how good it is.

    Attributes:
        source: the model whose token embeddings receive gradients.
        target: the model whose loss is differentiated.
        groups: the groups in the order that the word table's group column counts in.
        identity: whether both models are the same, so that the adapter is the identity and there
            are no adapter tensors.
        files: every file of the bundle but the manifest, by its path inside the bundle.
        options: how it was built (JSON values).
        corpus_sha256: hash of the counted words that it was built from.
        left_out: number of words left out, by reason.
        fallbacks: groups that have no adapter of their own, with the reason.
        quality: the quality report on held-out words (JSON values).
        indexes: word indexes by name: kind, metric, representation, measured recall and latency
            (JSON values); not stored where there are none.
        published: ``name``, under which it is found, and ``license`` (text); not stored if empty.
        kinds: the kind of every group's map that is not the t-product alone, by group; not stored
            if empty. A manifest that has some is of format version 2.
        selection: held-out relative errors by group and kind, where a build tried several kinds;
            not stored if empty.
        package_version: the fuse_index that wrote it.
    """

    source: ModelIdentity
    target: ModelIdentity
    groups: tuple[GroupRecord, ...]
    files: Mapping[str, FileRecord]
    corpus_sha256: str
    identity: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    indexes: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    selection: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    package_version: str = ""

    def __post_init__(self) -> None:
        for name in _OBJECTS:
            object.__setattr__(self, name, plain(getattr(self, name)))
        for name, most in (("groups", MAX_GROUPS), ("files", MAX_FILES)):
            if len(getattr(self, name)) > most:
                raise OptionError(
                    f"{name} has {len(getattr(self, name))} items", expected=f"at most {most}"
                )
        if self.group_names != order_groups(self.group_names):
            raise OptionError("groups are not sorted by (p, q)", expected="order_groups' order")
        if not is_sha256(self.corpus_sha256):
            raise OptionError(f"corpus_sha256 {self.corpus_sha256!r}", expected="64 hex digits")
        _check_counts("left_out", self.left_out)
        _check_counts("groups", {group.name: group.words for group in self.groups})
        if any(type(value) is not str for value in self.fallbacks.values()):
            raise OptionError("fallbacks hold more than text", expected="group name -> reason")
        _check_published(self.published)
        check_kinds(self.kinds, () if self.identity else self.group_names)
        if self.identity and FALLBACK in self.group_names:
            raise OptionError(
                "an identity adapter with a fallback group", expected="groups without adapters"
            )
        _check_files(self.files, self.identity)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the groups; the word table's group column counts in this order."""
        return tuple(group.name for group in self.groups)

    def kind_of(self, group: str) -> str:
        """Return the kind of a group's map."""
        return self.kinds.get(group, CIRCULANT)

    @property
    def words(self) -> int:
        """Number of words in the table."""
        return sum(group.words for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as the JSON object that is stored, checksum included."""
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION_OF_KINDS if self.kinds else FORMAT_VERSION,
            "package_version": self.package_version,
            "source": self.source.to_json(),
            "target": self.target.to_json(),
            "identity": self.identity,
            "groups": [{"name": group.name, "words": group.words} for group in self.groups],
            "options": self.options,
            "corpus_sha256": self.corpus_sha256,
            "left_out": self.left_out,
            "fallbacks": self.fallbacks,
            "quality": self.quality,
            "files": {
                name: {"size": record.size, "sha256": record.sha256}
                for name, record in self.files.items()
            },
        }
        if self.indexes:  # bundles without one are the same as ever
            content["indexes"] = self.indexes
        for name in ("published", "kinds", "selection"):
            if value := getattr(self, name):
                content[name] = value
        return {**content, "checksum": content_digest(content)}

    def to_bytes(self) -> bytes:
        """Return the text of ``manifest.json``: indented JSON, sorted keys, ASCII."""
        return dump_pretty(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, where: str) -> Manifest:
        """Parse ``manifest.json``; see :meth:`from_json`."""
        return cls.from_json(load_strict(data, where), where)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "manifest") -> Manifest:
        """Build a manifest from exactly the object that :meth:`to_json` returns.

        Args:
            value: the parsed object.
            where: the file, for messages.

        Raises:
            BundleError: another format or format version, a missing, unknown or ill-typed key, a
                path outside the bundle, or a checksum that does not fit.
        """
        _check_format(value, where)
        require_schema(_ManifestJson, value, where)
        content = {key: item for key, item in value.items() if key != "checksum"}
        if value["checksum"] != content_digest(content):
            raise BundleError(
                f"{where} was changed after it was written: its checksum does not fit",
                remedy=_FETCH_AGAIN,
            )
        try:
            manifest = cls(
                source=ModelIdentity(**value["source"]),
                target=ModelIdentity(**value["target"]),
                groups=tuple(GroupRecord(**item) for item in value["groups"]),
                files={name: FileRecord(**item) for name, item in value["files"].items()},
                **{key: value[key] for key in _PLAIN_KEYS if key in value},
            )
            _check_adapter(manifest)
        except OptionError as error:
            raise BundleError(f"{where}: {error}", remedy=_FETCH_AGAIN) from None
        return manifest


_OBJECTS = (
    "options",
    "left_out",
    "fallbacks",
    "quality",
    "indexes",
    "published",
    "kinds",
    "selection",
)
_PLAIN_KEYS = ("corpus_sha256", "identity", *_OBJECTS, "package_version")


def _check_format(value: Mapping[str, Any], where: str) -> None:
    if value.get("format") != FORMAT:
        raise BundleError(
            f"{where} is not a fuse_index manifest (format {value.get('format')!r:.80})",
            expected=f"format {FORMAT!r}",
            remedy="check the path",
        )
    version = value.get("format_version")
    expected = FORMAT_VERSION_OF_KINDS if "kinds" in value else FORMAT_VERSION
    if type(version) is not int or version != expected:
        raise BundleError(
            f"{where} has format version {version!r:.80}",
            expected=f"version {expected}",
            remedy="upgrade fuse_index, or build the bundle again with this version",
        )


def _check_adapter(manifest: Manifest) -> None:
    """Check what an adapter needs: hashes of both models, a fallback, or one model twice."""
    for role, model in (("source", manifest.source), ("target", manifest.target)):
        if not model.embedding_hash:
            raise OptionError(f"the {role} has no embedding hash", expected="64 hex digits")
    found = manifest.source.differences(manifest.target)
    if manifest.identity and found:
        raise OptionError(
            f"an identity adapter of two models: the source has {', '.join(found)}",
            expected="one model",
        )
    if not manifest.identity and FALLBACK not in manifest.group_names:
        raise OptionError(f"groups without {FALLBACK!r}", expected=f"{FALLBACK!r} among them")


def _check_counts(name: str, counts: Mapping[str, int]) -> None:
    for key, count in counts.items():
        if type(count) is not int or not 0 <= count < 1 << 40:
            raise OptionError(f"{name}[{key!r}] is {count!r}", expected="a count of words")


def _check_published(published: Mapping[str, str]) -> None:
    for key, value in published.items():
        fits = isinstance(value, str) and value.isprintable() and 0 < len(value) <= 1024
        if key not in ("license", "name") or not fits:
            raise OptionError(
                f"published[{key!r}] is {value!r}", expected="name and license, printable text"
            )


def _check_files(files: Mapping[str, FileRecord], identity: bool) -> None:
    for name, record in files.items():
        if not is_member_name(name):
            raise OptionError(
                f"file name {name!r}", expected="a bundle's file, or a plain name under 'index/'"
            )
        if type(record.size) is not int or not 0 <= record.size <= size_limit(name):
            raise OptionError(
                f"size of {name} is {record.size!r}", expected=f"0 to {size_limit(name)} bytes"
            )
        if not is_sha256(record.sha256):
            raise OptionError(f"sha256 of {name} is {record.sha256!r}", expected="64 hex digits")
    needed = {WORDS} if identity else {WORDS, ADAPTER}
    if missing := needed - set(files):
        raise OptionError(f"files lacks {sorted(missing)}", expected="every file of the bundle")
    if identity and ADAPTER in files:
        raise OptionError(f"an identity adapter with {ADAPTER}", expected="no adapter tensors")
