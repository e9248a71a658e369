"""The tiny models that come with the package, and whether they are whole."""

from __future__ import annotations

import json
from pathlib import Path

from fuse_index.common.files import sha256_of
from fuse_index.errors import ModelError
from fuse_index.models.packaged import FOLDER, DemoModel, model_name

__all__ = ["CHECKSUMS", "FOLDER", "DemoModel", "model_name", "verify", "write_checksums"]

CHECKSUMS = "checksums.json"
"""File name -> sha256 of every file of every model, relative to the folder."""

_REMEDY = "install the package again, or train them with tools/train_demo_models.py"


def write_checksums(folder: Path) -> Path:
    """Write the checksums of all files below a folder and return the list's path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    sums = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    target = folder / CHECKSUMS
    target.write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
    return target


def verify(folder: Path | None = None) -> dict[str, str]:
    """Check every file of the models against its checksum.

    Args:
        folder: where the models are; None is the package's own.

    Returns:
        File -> sha256, as listed.

    Raises:
        ModelError: the list or a file is missing or damaged; the message names the file, the
            checksum expected and the one found.
    """
    folder = folder or FOLDER
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / CHECKSUMS} cannot be read ({error})",
            expected="the list of the demo models' checksums",
            remedy=_REMEDY,
        ) from error
    if not isinstance(sums, dict) or not sums:
        raise ModelError(
            f"{folder / CHECKSUMS} lists no files",
            expected="file names with checksums",
            remedy=_REMEDY,
        )
    for name, expected in sums.items():
        path = folder / name
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ModelError(
                f"{path} cannot be read ({error.strerror or error})",
                expected=f"a file with sha256 {expected}",
                remedy=_REMEDY,
            ) from error
        if found != expected:
            raise ModelError(
                f"{path} is damaged: its sha256 is {found}", expected=expected, remedy=_REMEDY
            )
    return sums
