"""Checkpoints: everything a run needs to go on as if it had not been stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fuse_index.errors import CheckpointError
from fuse_index.optimize.result import write_atomically
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.optimize.state import Losses

FORMAT = "fuse_index checkpoint 1"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A stopped run.

    Attributes:
        configuration: what the run was asked for, without its budget.
        values: everything that is not a tensor.
        tensors: everything that is.
    """

    configuration: dict[str, Any]
    values: dict[str, Any]
    tensors: dict[str, Tensor]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint as safetensors, whole or not at all."""
        from safetensors.torch import save  # noqa: PLC0415 - only runs with a checkpoint need it

        text = json.dumps({"configuration": self.configuration, "values": self.values})
        tensors = {name: value.contiguous() for name, value in self.tensors.items()}
        tensors["json"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        data = save(tensors, metadata={"format": FORMAT})
        digest = hashlib.sha256(data).hexdigest().encode()
        write_atomically(Path(path), data + digest)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read a checkpoint; its checksum is verified before it is parsed.

        Raises:
            CheckpointError: the file is missing, damaged or something else.
        """
        from safetensors.torch import load  # noqa: PLC0415

        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {path}: {error.strerror}", expected="a file that --checkpoint wrote"
            ) from error
        body, digest = data[:-64], data[-64:]
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise CheckpointError(
                f"checkpoint {path} is damaged or no checkpoint: its checksum does not fit",
                expected="a file that --checkpoint wrote",
                remedy="remove it and begin again",
            )
        tensors = load(body)
        text = json.loads(tensors.pop("json").numpy().tobytes())
        return cls(text["configuration"], text["values"], tensors)

    def require(self, configuration: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
        """Refuse to go on with a run that was asked for something else.

        Raises:
            CheckpointError: the configurations differ; the message names the first difference.
        """
        given = json.loads(json.dumps(configuration))
        found = first_difference(self.configuration, given)
        if found is not None:
            where, old, new = found
            raise CheckpointError(
                f"checkpoint {path} is of a run with {where} = {_short(old)}",
                expected=f"{_short(new)}, as asked for now",
                remedy="resume with the same configuration, or name another checkpoint",
            )


def first_difference(old: Any, new: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Return where two JSON values first differ, and both values there."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = [(f"{where}.{key}" if where else key, old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else (where, old, new)
    for name, a, b in pairs:
        found = first_difference(a, b, name)
        if found is not None:
            return found
    return None


def pack_rows(name: str, rows: Any, losses: Any) -> dict[str, Tensor]:
    """Return rows of ids and their losses as tensors."""
    return {
        f"{name}.offsets": torch.from_numpy(rows.offsets),
        f"{name}.values": torch.from_numpy(rows.values),
        f"{name}.losses": torch.from_numpy(np.ascontiguousarray(losses)),
    }


def unpack_rows(name: str, tensors: Mapping[str, Tensor]) -> tuple[Ragged, Losses]:
    """Return what :func:`pack_rows` packed."""
    offsets, values, losses = (
        tensors[f"{name}.{part}"].numpy() for part in ("offsets", "values", "losses")
    )
    return Ragged(offsets, values), losses


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
