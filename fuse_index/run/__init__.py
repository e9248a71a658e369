"""Runs from files: configuration, adapters built on first use, captions of many images."""

from __future__ import annotations

from fuse_index.common.cache import cache_folder
from fuse_index.run.adapters import AdapterStore
from fuse_index.run.assembly import Assembly, ModelPool, assemble, find_images
from fuse_index.run.captioned import Caption, Captions, FailedImage
from fuse_index.run.captions import CaptionConfig, Captioner, read_captions
from fuse_index.run.config import (
    AdapterConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    SearchConfig,
    StartConfig,
    read_run,
)
from fuse_index.run.events import EventWriter
from fuse_index.run.files import load_file, override
from fuse_index.run.items import read_items
from fuse_index.run.retrieval import SentenceCorpus
from fuse_index.run.start import initial_prompts

__all__ = [
    "AdapterConfig",
    "AdapterStore",
    "Assembly",
    "Caption",
    "CaptionConfig",
    "Captioner",
    "Captions",
    "EventWriter",
    "FailedImage",
    "ModelConfig",
    "ModelPool",
    "ObjectiveConfig",
    "RunConfig",
    "SearchConfig",
    "SentenceCorpus",
    "StartConfig",
    "assemble",
    "cache_folder",
    "find_images",
    "initial_prompts",
    "load_file",
    "override",
    "read_captions",
    "read_items",
    "read_run",
]
