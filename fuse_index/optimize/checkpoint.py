"""Checkpoints: everything a run needs to continue as if it had not been stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import TypedDict

from fuse_index.common.files import is_special, write_out
from fuse_index.common.stored import check_schema
from fuse_index.errors import CheckpointError, FuseIndexError
from fuse_index.models.batching import BatchSize
from fuse_index.optimize.contents import replaced
from fuse_index.optimize.methods import METHODS
from fuse_index.optimize.run import Run
from fuse_index.optimize.search import SEARCHES
from fuse_index.optimize.state import below, from_json, pack_rows, unpack_rows
from fuse_index.predict.spent import Spent

FORMAT = "fuse_index checkpoint 1"
CONTENTS = "contents"


class _CheckpointJson(TypedDict):
    configuration: dict[str, Any]
    values: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A stopped run.

    Attributes:
        configuration: what the run was asked for, without its budget, and under ``contents``
            hashes of what that names.
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
        write_out(path, data + digest)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read a checkpoint; its checksum is verified before it is parsed.

        Raises:
            CheckpointError: the file is missing, damaged or something else.
        """
        from safetensors import SafetensorError  # noqa: PLC0415
        from safetensors.torch import load  # noqa: PLC0415

        if is_special(path):
            raise CheckpointError(f"checkpoint {path}", expected="a regular file")
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
        try:
            tensors = load(body)
            text = json.loads(tensors.pop("json").numpy().tobytes())
            check_schema(_CheckpointJson, text)
        except (SafetensorError, ValueError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"checkpoint {path} cannot be read ({str(error)[:200]})",
                expected="a file that --checkpoint wrote",
                remedy="remove it and begin again",
            ) from None
        return cls(text["configuration"], text["values"], tensors)

    def require(self, configuration: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
        """Refuse to go on with a run that was asked for something else.

        Args:
            configuration: what is asked for now, as in :attr:`configuration`. Contents are
                compared where both have them.
            path: the checkpoint, for the message.

        Raises:
            CheckpointError: the configurations differ, and the message names the first difference;
                or something has other contents, and the message names all of it.
        """
        given, saved = json.loads(json.dumps(configuration)), _completed(self.configuration)
        now, before = given.pop(CONTENTS, None), saved.pop(CONTENTS, None)
        found = first_difference(saved, given)
        if found is not None:
            where, old, new = found
            raise CheckpointError(
                f"checkpoint {path} is of a run with {where} = {_short(old)}",
                expected=f"{_short(new)}, as asked for now",
                remedy="resume with the same configuration, or name another checkpoint",
            )
        changed = replaced(before, now) if now is not None and before is not None else []
        if changed:
            raise CheckpointError(
                f"checkpoint {path} is of a run with other contents of {', '.join(changed)}",
                expected="what the run began with",
                remedy="put it back, or name another checkpoint",
            )


def _completed(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of options that its run was written before."""
    found = dict(configuration)
    kinds: dict[str, Mapping[str, Any]] = {"method": METHODS, "search": SEARCHES}
    for name, types in kinds.items():
        own = found.get(name)
        if isinstance(own, dict) and own.get("type") in types:
            with suppress(FuseIndexError):  # then it differs from what is asked for
                found[name] = json.loads(json.dumps(from_json(types, own).to_json()))
    return found


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


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def checkpoint_of(run: Run) -> Checkpoint:
    """Return everything a run needs to continue after its last finished step."""
    values = {
        "spent": run.spent.to_json(),
        "record": run.record.to_json(),
        "search": run.search.to_json(),
        "weights": run.weights.tolist(),
        "items": run.items.to_json() if run.items.changing else None,
        "batch_sizes": [size.to_json() for size in _batch_sizes(run)],
        "counters": [run.check.empty_steps, run.check.lost_candidates, run.stale],
    }
    tensors = {f"method.{name}": value for name, value in run.method.tensors().items()}
    tensors |= pack_rows("memory", *run.scorer.memory())
    if run.probe is not None:
        tensors |= pack_rows("draft", *run.probe.draft_scorer.memory())
    tensors["generator"] = run.generator.get_state()
    return Checkpoint(run.configuration() | {CONTENTS: run.contents}, values, tensors)


def restore(run: Run, saved: Checkpoint) -> None:
    """Continue a run from a checkpoint of the same configuration."""
    values, tensors = saved.values, saved.tensors
    for name, value in vars(Spent.from_json(values["spent"])).items():
        setattr(run.spent, name, value)
    run.weights[:] = values["weights"]
    if run.items.changing:
        run.items.load_json(values["items"])
    run.record.load_json(values["record"])
    run.search.load_json(values["search"])
    for size, item in zip(_batch_sizes(run), values["batch_sizes"], strict=True):
        size.load_json(item)
    run.check.empty_steps, run.check.lost_candidates, run.stale = values["counters"]
    run.scorer.restore(*unpack_rows("memory", tensors))
    if run.probe is not None:
        run.probe.draft_scorer.restore(*unpack_rows("draft", tensors))
    run.method.load_tensors(below("method.", tensors))
    run.generator.set_state(tensors["generator"])


def _batch_sizes(run: Run) -> list[BatchSize]:
    drafts = () if run.probe is None else run.probe.draft_scorer.batch_sizes
    return [*run.scorer.batch_sizes, *drafts, run.gradients.rows]
