"""The errors of the package: one base class, so that a caller can catch them all.

Every message says what was given, what was expected and what to do. The command line prints it as
one line and exits with code 2; anything that is not a :class:`FuseIndexError` is an internal error.
"""

from __future__ import annotations

from typing import Any

_LONGEST = 2000
"""Most characters that a part of a message may have."""


class FuseIndexError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        given: what was found, naming the object it concerns.
        expected: what would have been accepted.
        remedy: what the user can do now.
    """

    result: Any = None
    """What was found before a run failed, where there is something."""

    def __init__(self, given: str, *, expected: str = "", remedy: str = "") -> None:
        self.given = _shorten(given)
        self.expected = _shorten(expected)
        self.remedy = remedy
        parts = [self.given]
        if expected:
            parts.append(f"expected {self.expected}")
        if remedy:
            parts.append(remedy)
        super().__init__("; ".join(parts))


def _shorten(text: str) -> str:
    """Cut what a hostile file may have made too long to be read."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class OptionError(FuseIndexError, ValueError):
    """An option is outside its range, or two options contradict each other."""


class ShapeError(FuseIndexError, ValueError):
    """Tensors have shapes, dtypes or devices that do not fit together."""


class CorpusError(FuseIndexError):
    """Text that cannot be read: missing, empty, or not in the stated encoding."""


class ImageError(FuseIndexError):
    """A file that is not an image, or something that is no image at all."""


class VocabularyError(FuseIndexError):
    """No usable word is left, or a word table does not fit its tokenizers."""


class ModelError(FuseIndexError):
    """A model cannot be loaded, or lacks a tokenizer or an embedding table."""


class LossError(FuseIndexError):
    """An objective gives NaN, infinity or the wrong number of losses."""


class PromptError(FuseIndexError):
    """No candidate is a text that the models would read as the tokens that were scored."""


class CheckpointError(FuseIndexError):
    """A checkpoint of a run is damaged, or of a run with another configuration."""


class BundleError(FuseIndexError):
    """A bundle on disk is damaged, hostile, or of another format version."""


class IdentityError(BundleError):
    """A bundle was built for another model or tokenizer than the one at hand."""


class StorageError(FuseIndexError):
    """Files cannot be written: the folder exists, the disk is full, permission is missing."""


class RemoteError(FuseIndexError):
    """A hub or a bucket cannot be reached, has no such thing, or refuses access.

    Attributes:
        unreachable: whether nobody answered, so that a copy in a cache is the best there is.
    """

    unreachable = False


class ClusterError(FuseIndexError):
    """A cluster does not answer, or its workers keep dying."""


class MissingDependencyError(FuseIndexError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
