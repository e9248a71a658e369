"""The tiny models that come with the package: where they are and whether they are whole."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

from fuse_index.common.files import sha256_of
from fuse_index.errors import ModelError

FOLDER = Path(__file__).parent / "weights"
"""One folder a model."""
CHECKSUMS = "checksums.json"
"""File name -> sha256 of every file of every model, relative to the folder."""

_REMEDY = "install the package again, or train them with tools/train_demo_models.py"


class DemoModel(str, Enum):
    """A model of the package; the value is its folder."""

    LM = "lm"
    """GPT-2's architecture, byte-level BPE."""
    CLIP = "clip"
    """A model of open_clip with CLIP's own tokenizer."""
    SENTIMENT = "sentiment"
    """BERT's architecture, WordPiece; labels negative, neutral, positive."""
    JUDGE = "judge"
    """A second sentiment classifier, with another seed, size and tokenizer, to judge results by."""


def model_name(model: DemoModel, folder: Path | None = None) -> str:
    """Return the name that ``fuse_index.models.load_model`` takes.

    Args:
        model: which one.
        folder: where the models are; None is the package's own.
    """
    prefix = "open_clip:" if model is DemoModel.CLIP else ""
    return f"{prefix}{(folder or FOLDER) / model.value}"


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
