"""A bundle in another folder, fetched like one from a hub: checked, staged, never through links."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from fuse_index.bundle.files import READ_CHUNK, open_member, read_plain
from fuse_index.bundle.layout import MANIFEST, MAX_MANIFEST_BYTES
from fuse_index.bundle.read import read_manifest


class FolderRemote:
    """The files of a local bundle.

    Args:
        path: its folder.

    Raises:
        BundleError: there is no bundle.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        read_manifest(path)
        self._root = Path(path)
        self.name = str(path)

    def errors(self) -> AbstractContextManager[None]:
        """Nothing needs to be translated: what is raised is about the disk."""
        return nullcontext()

    def announced(self, member: str) -> int | None:
        """Return a file's size."""
        descriptor = open_member(self._root, member)
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def append(self, member: str, size: int, file: Any) -> None:
        """Write a file on from the position where ``file`` is."""
        with os.fdopen(open_member(self._root, member), "rb") as stream:
            stream.seek(file.tell())
            while block := stream.read(READ_CHUNK):
                file.write(block)

    def read_manifest(self) -> bytes:
        """Read the manifest."""
        return read_plain(self._root, MANIFEST, MAX_MANIFEST_BYTES)
