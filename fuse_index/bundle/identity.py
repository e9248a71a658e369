"""Identities of models: names for people, hashes for the check."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fuse_index.errors import IdentityError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_ROWS = 8192


def is_sha256(value: object) -> bool:
    """Whether ``value`` is a sha256 in lower-case hex."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


@dataclass(frozen=True)
class ModelIdentity:
    """Identity of a model and its tokenizer.

    Attributes:
        name: Hub id, folder or ``open_clip:`` name, as the user gave it.
        revision: commit of the weights where known, else "".
        tokenizer_hash: fingerprint of what the tokenizer does, sha256 hex.
        embedding_hash: :func:`hash_embeddings` of the input embedding table, sha256 hex; "" where
            the table at hand is not the stored one (loaded in half precision), then it is not
            compared. A bundle always has it.
        width: columns of the input embedding table.
        vocabulary_size: rows of the input embedding table.
    """

    name: str
    revision: str
    tokenizer_hash: str
    embedding_hash: str
    width: int
    vocabulary_size: int

    def __post_init__(self) -> None:
        for field in ("name", "revision"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.isprintable() or len(value) > 4096:
                raise OptionError(
                    f"model {field} {value!r}", expected="printable text of at most 4096 characters"
                )
        if not self.name:
            raise OptionError("model name ''", expected="a Hub id or a folder")
        if not is_sha256(self.tokenizer_hash):
            raise OptionError(
                f"tokenizer_hash {self.tokenizer_hash!r}", expected="64 lower-case hex digits"
            )
        if self.embedding_hash != "" and not is_sha256(self.embedding_hash):
            raise OptionError(
                f"embedding_hash {self.embedding_hash!r}", expected="64 lower-case hex digits"
            )
        for field in ("width", "vocabulary_size"):
            value = getattr(self, field)
            if type(value) is not int or not 1 <= value < 1 << 40:
                raise OptionError(f"{field} {value!r}", expected="a positive integer")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object, where: str = "model identity") -> ModelIdentity:
        """Build an identity from exactly the object that :meth:`to_json` returns.

        Raises:
            OptionError: a field is missing, unknown, or out of range.
        """
        names = set(cls.__dataclass_fields__)
        if not isinstance(value, Mapping) or set(value) != names:
            raise OptionError(
                f"{where} is {_summary(value)}", expected=f"an object with keys {sorted(names)}"
            )
        return cls(**value)

    def differences(self, other: ModelIdentity) -> list[str]:
        """Say in what the models differ; empty when hashes and sizes agree, whatever the names.

        Where an embedding hash is not known, revisions decide if both are known.
        """
        found = []
        if self.tokenizer_hash != other.tokenizer_hash:
            found.append("another tokenizer")
        if self.width != other.width:
            found.append(f"embedding width {self.width}, not {other.width}")
        if self.vocabulary_size != other.vocabulary_size:
            found.append(f"{self.vocabulary_size} embedding rows, not {other.vocabulary_size}")
        known = bool(self.embedding_hash and other.embedding_hash)
        if found or (known and self.embedding_hash == other.embedding_hash):
            return found
        revisions = {self.revision, other.revision}
        moved = len(revisions) > 1 and "" not in revisions
        if known:
            why = "another revision" if moved else "fine-tuned, or another checkpoint"
            found.append(f"other embedding values ({why})")
        elif moved:
            found.append("another revision, and no embedding hash to tell whether it is the same")
        return found

    def describe(self) -> str:
        """Name the model with the start of its hashes, for messages."""
        revision = f" at revision {self.revision[:12]}" if self.revision else ""
        hashes = f"tokenizer {self.tokenizer_hash[:8]}"
        if self.embedding_hash:
            hashes += f", embeddings {self.embedding_hash[:8]}"
        return f"{self.name!r}{revision} ({hashes}, {self.vocabulary_size} x {self.width})"


def require_model(role: str, built_for: ModelIdentity, given: ModelIdentity, where: str) -> None:
    """Refuse a model that is not the one a bundle was built for.

    Args:
        role: "source" or "target".
        built_for: the model in the bundle's manifest.
        given: the model at hand.
        where: the bundle, for the message.

    Raises:
        IdentityError: tokenizer, sizes or embedding values differ; the message names both models.
    """
    differences = given.differences(built_for)
    if differences:
        raise IdentityError(
            f"{where}: the {role} model is {given.describe()}",
            expected=f"{built_for.describe()}, which the bundle was built for",
            remedy=f"it has {', '.join(differences)}: load the other model, or build a new bundle",
        )


def hash_embeddings(table: Tensor) -> str:
    """Hash an input embedding table.

    Args:
        table: (vocabulary size, width), any floating dtype and device. Values are hashed as
            float32, so a checkpoint stored in half precision hashes the same after widening.

    Returns:
        sha256 in hex over the shape and the values.
    """
    import torch  # noqa: PLC0415 - the rest of this module works without it

    digest = hashlib.sha256(f"{table.shape[0]}x{table.shape[1]}:float32\n".encode())
    for start in range(0, len(table), _CHUNK_ROWS):
        rows = table.detach()[start : start + _CHUNK_ROWS]
        values = rows.to(device="cpu", dtype=torch.float32).contiguous()
        digest.update(values.numpy().data)
    return digest.hexdigest()


def _summary(value: object) -> str:
    if isinstance(value, Mapping):
        return f"an object with keys {sorted(map(str, value))}"
    return f"a {type(value).__name__}"
