"""What the JSON of a word index holds, and what it must be for the words at hand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import FailFast, Field
from typing_extensions import TypedDict

from fuse_index.bundle.jsontext import load_strict
from fuse_index.bundle.layout import MAX_TOKENS
from fuse_index.common.reading import read_options
from fuse_index.common.stored import EXACT, MAX_VALUES, SchemaError, Whole, check_schema
from fuse_index.errors import BundleError, OptionError
from fuse_index.index.options import IndexOptions, Kind

FORMAT = "fuse_index word index"
FORMAT_VERSION = 1
MAX_JSON_BYTES = 256 << 20
_BYTES_PER_VALUE = 8
"""Least bytes that a value takes in a large file: they stand in lines of their own."""
BUILD_AGAIN = "build the index again (fuse-index index)"

_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Tokens = Annotated[list[Whole], Field(min_length=1, max_length=MAX_TOKENS), FailFast()]


class RecordJson(TypedDict):
    """Size and checksum of a file."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    size: Whole
    sha256: _Hash


class EffortJson(TypedDict):
    """How much is searched."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    candidates: Annotated[Whole, Field(ge=1)]


class EngineJson(TypedDict):
    """The FAISS file of product codes, and what is held beside it."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    file: str
    size: Whole
    sha256: _Hash
    effort: EffortJson
    keeps_vectors: bool
    keeps_tables: bool
    reduction: RecordJson | None


class AddedJson(TypedDict):
    """Words that the table of the bundle does not hold."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    words: Annotated[list[Annotated[str, Field(min_length=1)]], FailFast()]
    counts: Annotated[list[Whole], FailFast()]
    tokens: dict[str, Annotated[list[_Tokens], FailFast()]]


class IndexJson(TypedDict):
    """The whole file."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    format: str
    format_version: int
    options: dict[str, Any]
    models: Annotated[list[Literal["source", "target"]], Field(min_length=1, max_length=2)]
    weights: list[float]
    words_sha256: _Hash
    added: AddedJson
    engine: EngineJson | None
    report: dict[str, Any]


def parse_index_json(data: bytes, where: str) -> tuple[IndexJson, IndexOptions]:
    """Parse the JSON of an index and check what can be checked without its words.

    Args:
        data: the file.
        where: the file, for messages.

    Returns:
        What it holds, and the options in it.

    Raises:
        BundleError: it is not the JSON of an index, or contradicts itself.
    """
    value = load_strict(data, where, MAX_VALUES + len(data) // _BYTES_PER_VALUE)
    if value.get("format") != FORMAT or value.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{where} is not a word index of this version "
            f"({value.get('format')!r:.80}, {value.get('format_version')!r:.80})",
            expected=f"{FORMAT!r}, version {FORMAT_VERSION}",
            remedy=BUILD_AGAIN,
        )
    try:
        stored = check_schema(IndexJson, value)
        _check_kind(stored["options"].get("kind"), where)
        options = read_options(IndexOptions, stored["options"], "options")
        _check_lengths(stored, options)
    except (SchemaError, OptionError) as error:
        raise BundleError(
            f"{where} is damaged ({getattr(error, 'given', error)})",
            expected=error.expected,
            remedy=BUILD_AGAIN,
        ) from None
    return stored, options


def _check_kind(kind: Any, where: str) -> None:
    kinds = [member.value for member in Kind if member is not Kind.AUTO]
    if kind not in kinds:
        raise BundleError(
            f"{where} is an index of kind {kind!r:.80}",
            expected=f"one of {', '.join(kinds)}",
            remedy=BUILD_AGAIN,
        )


def _check_lengths(stored: IndexJson, options: IndexOptions) -> None:
    """Check lists against one another.

    Raises:
        SchemaError: they do not fit.
    """
    models, added = stored["models"], stored["added"]
    if models != sorted(set(models)):
        raise SchemaError(f"models are {models}", "the source before the target, once each")
    if len(stored["weights"]) != len(models):
        raise SchemaError(f"{len(stored['weights'])} weights", f"{len(models)}, one a model")
    if set(added["tokens"]) != set(models):
        raise SchemaError(f"added tokens of {sorted(added['tokens'])}"[:200], f"of {models}")
    sizes = {len(added["words"]), len(added["counts"]), *map(len, added["tokens"].values())}
    if len(sizes) > 1:
        raise SchemaError(f"added lists of lengths {sorted(sizes)}", "one length")
    if (stored["engine"] is not None) is options.kind.exact:
        what = "names a FAISS file" if options.kind.exact else "names no FAISS file"
        raise SchemaError(f"an index of kind {options.kind.value} {what}", "product codes with one")
