"""A small bundle with every feature, and helpers that take bundles apart and seal them again."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuse_index.bundle import Bundle, BundleContents, GroupTensor, ModelIdentity, embed_groups
from fuse_index.bundle.jsontext import content_digest, dump_pretty
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

SOURCE = ModelIdentity("org/source-lm", "0123abcd", "a" * 64, "b" * 64, 3, 12)
TARGET = ModelIdentity("org/target-encoder", "", "c" * 64, "d" * 64, 2, 9)
TABLE = WordTable(
    words=("the", "naïve", "日本", "x|y", "rest"),
    counts=np.array([40, 7, 3, 1, 0]),
    source=Ragged.from_lists([[1], [2, 3], [4, 5], [11], [0, 6, 7]]),
    target=Ragged.from_lists([[8], [1], [2], [0], [3, 4]]),
)
NAMES = ("1x1", "2x1", "fallback")
ALL = ("words", "adapter", "groups")


def ramp(*shape: int, scale: float = 0.25) -> torch.Tensor:
    """Distinct values that every float dtype holds exactly: -scale * 4, -scale * 3, ..."""
    count = int(np.prod(shape))
    return ((torch.arange(count, dtype=torch.float32) - 4) * scale).reshape(shape)


SOURCE_EMBEDDINGS = ramp(12, 3)
TARGET_EMBEDDINGS = ramp(9, 2, scale=0.5)


def adapters() -> dict[str, torch.Tensor]:
    return {"2x1": ramp(2, 3, 2), "fallback": ramp(1, 3, 2, scale=2.0), "1x1": ramp(1, 3, 2)}


def contents(**changes: Any) -> BundleContents:
    """The sample's contents, with some fields changed."""
    fields: dict[str, Any] = {
        "source": SOURCE,
        "target": TARGET,
        "table": TABLE,
        "adapters": adapters(),
        "corpus_sha256": "e" * 64,
        "options": {"seed": 0, "ridge": "auto", "min_words": 32},
        "left_out": {"source: unknown tokens": 2, "more than 4 tokens": 1},
        "fallbacks": {"3x2": "1 words to fit on, fewer than min_words=32"},
        "quality": {
            "1x1": {"words": 2, "held_out": 0, "relative_error": None, "cosine": None},
            "2x1": {"words": 2, "held_out": 1, "relative_error": 0.5, "cosine": 0.75},
        },
        "groups": embed_groups(TABLE, NAMES, SOURCE_EMBEDDINGS, TARGET_EMBEDDINGS),
        "package_version": "0.0.1",
    }
    return BundleContents(**{**fields, **changes})


def identity_contents(**changes: Any) -> BundleContents:
    """A bundle of one model with itself."""
    table = WordTable(TABLE.words, TABLE.counts, TABLE.source, TABLE.source)
    fields: dict[str, Any] = {
        "source": SOURCE,
        "target": SOURCE,
        "table": table,
        "adapters": {},
        "groups": None,
        "identity": True,
        "quality": {},
        "fallbacks": {},
    }
    return contents(**{**fields, **changes})


def slow_groups(words: int, pause: Callable[[], None]) -> BundleContents:
    """Contents whose group tensors come a word at a time with a pause after each."""
    table = WordTable(
        words=tuple(f"w{i}" for i in range(words)),
        counts=np.ones(words, dtype=np.int64),
        source=Ragged.from_lists([[i % 12] for i in range(words)]),
        target=Ragged.from_lists([[i % 9] for i in range(words)]),
    )

    def tensor(name: str, count: int, width: int) -> GroupTensor:
        def chunks() -> Iterator[torch.Tensor]:
            for i in range(count):
                yield torch.full((1, 1, width), float(i))
                pause()

        return GroupTensor(name, (count, 1, width), torch.float32, chunks)

    sizes = {"1x1": words, "fallback": 0}
    groups = [
        tensor(f"{side}.{name}", count, width)
        for name, count in sizes.items()
        for side, width in (("source", 3), ("target", 2))
    ]
    tensors = {name: tensor for name, tensor in adapters().items() if name in sizes}
    return contents(table=table, adapters=tensors, groups=groups)


def snapshot(bundle: Bundle) -> dict[str, Any]:
    """Everything that a bundle with all parts holds, comparable with ``==``."""
    return {
        "manifest": bundle.manifest.to_json(),
        "words": bundle.table.words,
        "counts": bundle.table.counts.tolist(),
        "source": bundle.table.source.to_lists(),
        "target": bundle.table.target.to_lists(),
        "word_groups": bundle.word_groups.tolist(),
        "adapters": {name: tensor.tolist() for name, tensor in bundle.adapters.items()},
        "groups": {name: bundle.groups.load(name).tolist() for name in bundle.groups.shapes},
    }


def split_tensors(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join_tensors(path: Path, header: Any, data: bytes) -> None:
    """Write a safetensors file from a header (any JSON, or bytes) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_column(path: Path, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace one tensor of a safetensors file, keeping its dtype."""
    header, data = split_tensors(path)
    dtypes = {"I64": "<i8", "U8": "u1", "F32": "<f4"}
    rebuilt: dict[str, Any] = {}
    parts: list[bytes] = []
    start = 0
    for key, entry in sorted(
        ((k, v) for k, v in header.items() if k != "__metadata__"),
        key=lambda item: item[1]["data_offsets"],
    ):
        low, high = entry["data_offsets"]
        array = np.frombuffer(data[low:high], dtypes[entry["dtype"]]).reshape(entry["shape"]).copy()
        if key == name:
            array = edit(array)
        part = np.ascontiguousarray(array, dtypes[entry["dtype"]]).tobytes()
        rebuilt[key] = {
            "dtype": entry["dtype"],
            "shape": list(array.shape),
            "data_offsets": [start, start + len(part)],
        }
        parts.append(part)
        start += len(part)
    join_tensors(path, rebuilt, b"".join(parts))


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], Any], seal: bool = True) -> None:
    """Change the manifest in place; with ``seal`` its own checksum is made to fit."""
    value = json.loads((folder / "manifest.json").read_text())
    edit(value)
    if seal:
        value.pop("checksum", None)
        value["checksum"] = content_digest(value)
    (folder / "manifest.json").write_bytes(dump_pretty(value))


def reseal(folder: Path) -> None:
    """Make every size and checksum fit, as somebody would who wants a bad bundle to be loaded."""

    def edit(value: dict[str, Any]) -> None:
        for name, record in value["files"].items():
            data = (folder / name).read_bytes()
            record.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit_manifest(folder, edit)
