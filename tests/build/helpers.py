"""Builds in small shards, so that a small corpus goes the way of a large one."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from fuse_index.models.embeddings import Embeddings, load_embeddings

SHARDS = """
import fuse_index.adapter.fit.stream as stream
import fuse_index.build.stages as stages
import fuse_index.words.corpus.shards as shards
import fuse_index.words.table as table
stages.SMALL_BYTES = 0
shards.SHARD_BYTES = 400_000
table.SHARD_WORDS = 1500
stream.SHARD_WORDS = 512
stream._CHUNK_ELEMENTS = {"cpu": 256 * 384, "cuda": 256 * 384}
"""
"""To be run before a build: every stage has several shards."""

RUN = SHARDS + "import sys\nfrom fuse_index.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
"""The command line with small shards."""


def make_shards_small(monkeypatch) -> None:
    """The same in this process."""
    from fuse_index.adapter.fit import stream
    from fuse_index.build import stages
    from fuse_index.words import table
    from fuse_index.words.corpus import shards

    monkeypatch.setattr(stages, "SMALL_BYTES", 0)
    monkeypatch.setattr(shards, "SHARD_BYTES", 400_000)
    monkeypatch.setattr(table, "SHARD_WORDS", 1500)
    monkeypatch.setattr(stream, "SHARD_WORDS", 512)
    monkeypatch.setattr(stream, "_CHUNK_ELEMENTS", {"cpu": 256 * 384, "cuda": 256 * 384})


def load_once(monkeypatch) -> None:
    """Read every model only once in this process; what is read is not changed by a build."""
    from fuse_index.build import pipeline

    monkeypatch.setattr(pipeline, "load_embeddings", _cached)


@lru_cache(maxsize=4)
def _cached(name: str, local_files_only: bool = False) -> Embeddings:
    return load_embeddings(name, local_files_only=local_files_only)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
