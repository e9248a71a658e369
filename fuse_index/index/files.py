"""Word indexes on disk: a JSON file, and the FAISS index where one was trained."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from fuse_index.bundle import Bundle, FileRecord, Manifest, add_index_files
from fuse_index.bundle.files import hashed_file, read_checked, read_plain
from fuse_index.bundle.jsontext import dump_pretty
from fuse_index.errors import (
    BundleError,
    IdentityError,
    OptionError,
    ShapeError,
    StorageError,
    VocabularyError,
)
from fuse_index.index.approximate import Approximate, parse_index, searched_width
from fuse_index.index.faissfile import CodesLayout
from fuse_index.index.options import IndexOptions, Kind
from fuse_index.index.projection import Projection
from fuse_index.index.schema import (
    BUILD_AGAIN,
    FORMAT,
    FORMAT_VERSION,
    MAX_JSON_BYTES,
    EngineJson,
    IndexJson,
    parse_index_json,
)
from fuse_index.index.vectors import Side, WordVectors, sides_of
from fuse_index.index.word_index import WordIndex
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

Read = Callable[[str, Mapping[str, Any]], NDArray[np.uint8]]
"""Returns the checked bytes of a file of an index, by the end of its name and its record."""


def index_files(index: WordIndex, name: str) -> dict[str, Any]:
    """Return the files of an index: bytes by file name.

    A flat index and the search by tokens are rebuilt when they are read; their file is the JSON
    alone.

    Args:
        index: what is stored; words that were added are stored in it.
        name: what the files are called.
    """
    files: dict[str, Any] = {}
    engine, stored = index.engine, None
    if engine is not None and engine.kind is not Kind.FLAT:
        files[f"{name}.faiss"] = data = engine.serialize()
        stored = {
            "file": f"{name}.faiss",
            **_record(data),
            "effort": {"candidates": engine.candidates},
            "keeps_vectors": index.vectors.kept is not None,
            "keeps_tables": index.vectors.has_tables,
            "reduction": None,
        }
        if engine.projection is not None:
            files[f"{name}.safetensors"] = maps = save(vars(engine.projection))
            stored["reduction"] = _record(maps)
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
    parsed = parse_index_json(read_plain(root, f"{name}.json", MAX_JSON_BYTES), where)

    def read(end: str, record: Mapping[str, Any]) -> NDArray[np.uint8]:
        return read_checked(root, name + end, FileRecord(record["size"], record["sha256"]))

    return _restore(parsed, read, table, {"source": source, "target": target}, where)


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
    parsed = parse_index_json(bundle.index_bytes(f"{name}.json").tobytes(), where)

    def read(end: str, record: Mapping[str, Any]) -> NDArray[np.uint8]:  # the manifest has checked
        return bundle.index_bytes(name + end)

    return _restore(parsed, read, bundle.table, {"source": source, "target": target}, where)


def _record(data: Any) -> dict[str, Any]:
    return {"size": memoryview(data).nbytes, "sha256": hashlib.sha256(data).hexdigest()}


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


def _restore(
    parsed: tuple[IndexJson, IndexOptions],
    read: Read,
    table: WordTable,
    embeddings: Mapping[str, Tensor | None],
    where: str,
) -> WordIndex:
    value, options = parsed
    models: list[str] = [*value["models"]]
    added = value["added"]
    if missing := [name for name in models if embeddings.get(name) is None]:
        raise OptionError(
            f"{where} is over {', '.join(models)}",
            expected=f"the embeddings of the {' and the '.join(missing)}",
            remedy="load them with fuse_index.models.embeddings.load_embeddings",
        )
    given = {name: embeddings[name] for name in models}
    weights = dict(zip(models, value["weights"], strict=True))
    sides = sides_of(table, **given, weights=weights)
    words = (*table.words, *added["words"])
    more = len(added["words"])
    try:
        if len({*words}) < len(words):
            raise VocabularyError("an added word is there already", expected="distinct words")
        if more:
            rows = {name: Ragged.from_lists(added["tokens"][name]) for name in models}
            sides = [side.with_words(rows[side.name]) for side in sides]
        if words_sha256(words, sides) != value["words_sha256"]:
            raise IdentityError(
                f"{where} was built for other words, tokens or embeddings",
                expected="the bundle and the models it was built for",
                remedy=BUILD_AGAIN,
            )
        vectors = WordVectors(sides, options.representation)
        engine = _engine(value["engine"], read, vectors, options, where)
    except (ShapeError, VocabularyError) as error:
        raise BundleError(f"{where}: {error}", remedy=BUILD_AGAIN) from None
    except MemoryError:
        raise BundleError(
            f"{where} is of {len(words)} words, more than memory can hold",
            remedy="use a machine with more memory, or check where the index comes from",
        ) from None
    counts = np.concatenate([table.counts, np.asarray(added["counts"], np.int64)])
    return WordIndex(words, counts, vectors, options, engine, value["report"], more)


def _engine(
    stored: EngineJson | None,
    read: Read,
    vectors: WordVectors,
    options: IndexOptions,
    where: str,
) -> Approximate | None:
    if options.kind is Kind.TOKENS:
        return None
    if stored is None:
        return Approximate.build(vectors, Kind.FLAT, options.metric)
    projection = None
    if stored["reduction"] is not None:
        maps = read(".safetensors", stored["reduction"])
        projection = Projection.parse(maps, vectors.width, where)
    layout = CodesLayout.of(
        searched_width(vectors, projection),
        len(vectors),
        options.metric,
        projected=projection is not None,
    )
    data = read(".faiss", {"size": stored["size"], "sha256": stored["sha256"]})
    index = parse_index(data, layout, where)
    if stored["keeps_vectors"]:
        vectors.keep(stored["keeps_tables"])
    candidates = stored["effort"]["candidates"]
    return Approximate(index, options.kind, options.metric, candidates, projection)
