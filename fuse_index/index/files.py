"""Word indexes on disk: a JSON file, and the FAISS index where one was trained."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fuse_index.bundle import Bundle, FileRecord, Manifest, add_index_files
from fuse_index.bundle.files import hashed_file, read_checked, read_plain
from fuse_index.bundle.jsontext import dump_pretty, load_strict
from fuse_index.errors import BundleError, FuseIndexError, IdentityError, OptionError, StorageError
from fuse_index.index.approximate import Approximate, parse_index, searched_width
from fuse_index.index.options import IndexOptions, Kind
from fuse_index.index.projection import Projection
from fuse_index.index.queries import joined, sides_of
from fuse_index.index.vectors import Side, WordVectors
from fuse_index.index.word_index import WordIndex
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

Stored = tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]

FORMAT = "fuse_index word index"
FORMAT_VERSION = 1
_MAX_JSON_BYTES = 256 << 20
_KEYS = {
    *("format", "format_version", "options", "models", "weights", "words_sha256", "added"),
    *("engine", "report"),
}
_BUILD_AGAIN = "build the index again (fuse-index index)"


def index_files(index: WordIndex, name: str) -> dict[str, Any]:
    """Return the files of an index: bytes by file name.

    A flat index and the search by tokens are rebuilt when they are read; their file is the JSON
    alone.

    Args:
        index: what is stored; words that were added are stored in it.
        name: what the files are called.
    """
    files: dict[str, Any] = {}
    engine = index.engine
    stored = None
    if engine is not None and engine.kind is not Kind.FLAT:
        data = engine.serialize()
        files[f"{name}.faiss"] = data
        stored = {
            "file": f"{name}.faiss",
            "size": int(data.nbytes),
            "sha256": hashlib.sha256(data.data).hexdigest(),
            "effort": {"candidates": engine.candidates},
            "keeps_vectors": index.vectors.kept is not None,
            "keeps_tables": index.vectors.has_tables,
            "reduction": None,
        }
        if engine.projection is not None:
            maps = {"words": engine.projection.words, "queries": engine.projection.queries}
            content_of_maps = save(maps)
            files[f"{name}.safetensors"] = content_of_maps
            stored["reduction"] = {
                "size": len(content_of_maps),
                "sha256": hashlib.sha256(content_of_maps).hexdigest(),
            }
    first = len(index) - index.added
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "options": asdict(index.options),
        "models": list(index.models),
        "weights": [side.weight for side in index.vectors.sides],
        "words_sha256": words_sha256(index.words, index.vectors.sides),
        "added": {
            "words": list(index.words[first:]),
            "counts": index.counts[first:].tolist(),
            "tokens": {
                side.name: side.tokens.select(np.arange(first, len(index))).to_lists()
                for side in index.vectors.sides
            },
        },
        "engine": stored,
        "report": index.report,
    }
    return {f"{name}.json": dump_pretty(content), **files}


def save_index(index: WordIndex, folder: str | os.PathLike[str], name: str = "words") -> None:
    """Write an index into a folder, to be shared apart from the adapters.

    Args:
        index: what is written.
        folder: made if it is missing.
        name: what the files are called.

    Raises:
        StorageError: a file of that name is there already, or it cannot be written.
    """
    path = Path(folder)
    records: dict[str, FileRecord] = {}
    try:
        path.mkdir(parents=True, exist_ok=True)
        # The JSON, which makes the rest an index, comes last.
        for file, data in reversed(index_files(index, name).items()):
            with hashed_file(path / file, records, file) as writer:
                writer.write(data)
    except OSError as error:
        raise StorageError(
            f"{path / name} cannot be written ({error.strerror or error})",
            expected="a folder without files of that name",
            remedy="choose another one",
        ) from error


def load_index(
    folder: str | os.PathLike[str],
    table: WordTable,
    *,
    source: Tensor | None = None,
    target: Tensor | None = None,
    name: str = "words",
) -> WordIndex:
    """Read what :func:`save_index` wrote.

    Args:
        folder: where it is.
        table: the words that it was built for.
        source: ``(source vocabulary, d_src)``, where the index is over the source.
        target: ``(target vocabulary, d_tgt)``, where it is over the target.
        name: what the files are called.

    Raises:
        BundleError: a file is missing, truncated, altered or not an index.
        IdentityError: it was built for other words or other embeddings.
    """
    root = Path(folder)
    where = str(root / f"{name}.json")
    value = _parse(read_plain(root, f"{name}.json", _MAX_JSON_BYTES), where)

    def read(file: str, record: Mapping[str, Any]) -> NDArray[np.uint8]:
        return read_checked(root, file, FileRecord(record["size"], record["sha256"]))

    data = _stored_files(value, name, read)
    return _restore(value, data, table, {"source": source, "target": target}, where)


def add_index(bundle: str | os.PathLike[str], index: WordIndex, name: str) -> Manifest:
    """Put an index into a bundle; see :func:`fuse_index.bundle.add_index_files`."""
    return add_index_files(bundle, name, index_files(index, name), index.report)


def read_index(
    bundle: Bundle, name: str, *, source: Tensor | None = None, target: Tensor | None = None
) -> WordIndex:
    """Read an index of a bundle.

    Args:
        bundle: with its words.
        name: of the index: "source", "target" or "joint" where ``fuse-index index`` made it.
        source: the source's embeddings, where the index is over the source.
        target: the target's embeddings, where it is over the target.

    Raises:
        BundleError: the bundle has no such index, or a file is truncated, altered or no index.
        IdentityError: it was built for another bundle or other embeddings.
    """
    if name not in bundle.manifest.indexes:
        names = ", ".join(sorted(bundle.manifest.indexes)) or "none"
        raise BundleError(
            f"{bundle.path} has no index {name!r}",
            expected=f"one of its indexes ({names})",
            remedy="make it with fuse-index index",
        )
    where = str(bundle.path / "index" / f"{name}.json")
    value = _parse(bundle.index_bytes(f"{name}.json").tobytes(), where)
    data = _stored_files(value, name, lambda file, _: bundle.index_bytes(file))
    return _restore(value, data, bundle.table, {"source": source, "target": target}, where)


def words_sha256(words: Sequence[str], sides: Sequence[Side]) -> str:
    """Hash what an index is about: words, their tokens, and the embeddings of those."""
    digest = hashlib.sha256(json.dumps(list(words)).encode())
    for side in sides:
        digest.update(f"\n{side.name} {tuple(side.table.shape)}\n".encode())
        digest.update(np.ascontiguousarray(side.tokens.offsets).data)
        digest.update(np.ascontiguousarray(side.tokens.values).data)
        used = np.unique(side.tokens.values)
        digest.update(np.ascontiguousarray(side.table.numpy()[used]).data)
    return digest.hexdigest()


def _parse(data: bytes, where: str) -> dict[str, Any]:
    value = load_strict(data, where)
    if value.get("format") != FORMAT or value.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{where} is not a word index of this version "
            f"({value.get('format')!r}, {value.get('format_version')!r})",
            expected=f"{FORMAT!r}, version {FORMAT_VERSION}",
            remedy=_BUILD_AGAIN,
        )
    if set(value) != _KEYS:
        raise BundleError(
            f"{where} has keys {sorted(value)}", expected=f"{sorted(_KEYS)}", remedy=_BUILD_AGAIN
        )
    return value


def _stored_files(
    value: dict[str, Any],
    name: str,
    read: Callable[[str, Mapping[str, Any]], NDArray[np.uint8]],
) -> Stored:
    """Read, checked, the FAISS file and the maps of a projection, where there are any."""
    engine = value["engine"]
    if engine is None:
        return None, None
    try:
        reduction = engine["reduction"]
        index = read(f"{name}.faiss", engine)
        maps = None if reduction is None else read(f"{name}.safetensors", reduction)
    except (KeyError, TypeError) as error:
        raise BundleError(f"{name}.json is damaged ({error})", remedy=_BUILD_AGAIN) from None
    return index, maps


def _restore(
    value: dict[str, Any],
    data: Stored,
    table: WordTable,
    embeddings: Mapping[str, Tensor | None],
    where: str,
) -> WordIndex:
    try:
        kinds = [kind.value for kind in Kind if kind is not Kind.AUTO]
        if value["options"]["kind"] not in kinds:
            raise BundleError(
                f"{where} is an index of kind {value['options']['kind']!r}",
                expected=f"one of {', '.join(kinds)}",
                remedy=_BUILD_AGAIN,
            )
        options = IndexOptions(**value["options"])
        models, weights, added = value["models"], value["weights"], value["added"]
        if missing := [name for name in models if embeddings.get(name) is None]:
            raise OptionError(
                f"{where} is over {', '.join(models)}",
                expected=f"the embeddings of the {' and the '.join(missing)}",
                remedy="load them with fuse_index.models.embeddings.load_embeddings",
            )
        given = {name: embeddings[name] for name in models}
        sides = sides_of(table, **given, weights=dict(zip(models, weights, strict=True)))
        words, counts, sides = _with_added(table, sides, added)
        vectors = WordVectors(sides, options.representation)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, FuseIndexError):
            raise
        raise BundleError(f"{where} is damaged ({error})", remedy=_BUILD_AGAIN) from None
    if words_sha256(words, sides) != value["words_sha256"]:
        raise IdentityError(
            f"{where} was built for other words, tokens or embeddings",
            expected="the bundle and the models it was built for",
            remedy=_BUILD_AGAIN,
        )
    engine = _engine(value["engine"], data, vectors, options, where)
    return WordIndex(
        words,
        counts,
        vectors,
        options,
        engine,
        report=value["report"],
        added=len(words) - len(table),
    )


def _with_added(
    table: WordTable, sides: list[Side], added: Mapping[str, Any]
) -> tuple[tuple[str, ...], NDArray[np.int64], list[Side]]:
    if not added["words"]:
        return tuple(table.words), table.counts, sides
    more = [
        replace(side, tokens=joined(side.tokens, Ragged.from_lists(added["tokens"][side.name])))
        for side in sides
    ]
    counts = np.concatenate([table.counts, np.asarray(added["counts"], np.int64)])
    return (*table.words, *added["words"]), counts, more


def _engine(
    stored: dict[str, Any] | None,
    data: Stored,
    vectors: WordVectors,
    options: IndexOptions,
    where: str,
) -> Approximate | None:
    if options.kind is Kind.TOKENS:
        return None
    if options.kind is Kind.FLAT:
        return Approximate.build(vectors, Kind.FLAT, options.metric)
    if stored is None or data[0] is None:
        raise BundleError(f"{where} names no FAISS file", remedy=_BUILD_AGAIN)
    index = parse_index(data[0], where)
    projection = None if data[1] is None else _projection(data[1], vectors.width, where)
    width = searched_width(vectors, projection)
    if int(index.ntotal) != len(vectors) or int(index.d) != width:
        raise BundleError(
            f"{where}: the FAISS index holds {index.ntotal} vectors of width {index.d}",
            expected=f"{len(vectors)} of width {width}",
            remedy=_BUILD_AGAIN,
        )
    if stored["keeps_vectors"]:
        vectors.keep(bool(stored["keeps_tables"]))
    candidates = int(stored["effort"]["candidates"])
    return Approximate(index, options.kind, options.metric, candidates, projection)


def _projection(data: NDArray[np.uint8], width: int, where: str) -> Projection:
    try:
        maps = load(data.tobytes())
    except SafetensorError as error:
        raise BundleError(f"{where}: its maps cannot be read ({error})") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in maps.items()}
    fits = set(maps) == {"words", "queries"} and len(set(shapes.values())) == 1
    if not fits or maps["words"].shape[0] != width or maps["words"].dtype is not torch.float32:
        raise BundleError(
            f"{where}: maps of shapes {shapes}",
            expected=f"words and queries, float32, both ({width}, r)",
            remedy=_BUILD_AGAIN,
        )
    return Projection(maps["words"], maps["queries"])
