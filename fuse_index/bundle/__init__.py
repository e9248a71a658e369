"""The bundle on disk: manifest, safetensors, checksums, atomic writes, strict load."""

from __future__ import annotations

from fuse_index.bundle.extend import add_index_files
from fuse_index.bundle.groups import GroupReader, GroupTensor, embed_groups
from fuse_index.bundle.identity import ModelIdentity, hash_embeddings
from fuse_index.bundle.layout import FALLBACK, Part
from fuse_index.bundle.manifest import FileRecord, GroupRecord, Manifest
from fuse_index.bundle.read import Bundle, read_bundle, read_manifest, verify_bundle
from fuse_index.bundle.staging import check_output
from fuse_index.bundle.wordfile import assign_groups
from fuse_index.bundle.write import BundleContents, write_bundle

__all__ = [
    "FALLBACK",
    "Bundle",
    "BundleContents",
    "FileRecord",
    "GroupReader",
    "GroupRecord",
    "GroupTensor",
    "Manifest",
    "ModelIdentity",
    "Part",
    "add_index_files",
    "assign_groups",
    "check_output",
    "embed_groups",
    "hash_embeddings",
    "read_bundle",
    "read_manifest",
    "verify_bundle",
    "write_bundle",
]
