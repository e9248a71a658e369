"""The bundle on disk: manifest, safetensors, checksums, atomic writes, strict load."""

from __future__ import annotations

from fuse_index.artifact.extend import add_index_files
from fuse_index.artifact.groups import GroupReader, GroupTensor, embed_groups
from fuse_index.artifact.identity import ModelIdentity, hash_embeddings
from fuse_index.artifact.layout import FALLBACK, Part
from fuse_index.artifact.manifest import FileRecord, GroupRecord, Manifest
from fuse_index.artifact.read import Bundle, read_bundle, read_manifest, verify_bundle
from fuse_index.artifact.staging import check_output
from fuse_index.artifact.wordfile import assign_groups
from fuse_index.artifact.write import BundleContents, write_bundle

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
