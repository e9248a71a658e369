"""Hidden states that a bundle carries: put into it, and taken from it into the cache.

A bundle has the files of the cache that its words need, under ``index/``, named by what the states
depend on: weights, dtype, kind of device, contexts. Who has a model of the same weights takes them
over instead of running its words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors.torch import save

from fuse_index.bundle.extend import add_state_files
from fuse_index.bundle.files import read_checked
from fuse_index.bundle.layout import INDEX_FOLDER, MAX_MAGNITUDE, STATES_PREFIX
from fuse_index.bundle.tensorfile import all_finite, as_array, parse_file
from fuse_index.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from fuse_index.bundle import Bundle
    from fuse_index.models.base import Model
    from fuse_index.words.ragged import Ragged


class Shelf(Protocol):
    """Where states of one model are kept: a :class:`~fuse_index.predict.store.StateFolder`."""

    model: Model
    key: str
    size: int

    def shards(self, units: Ragged) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield the states of units, a name and the tensors of each file."""

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def put(self, name: str, data: bytes) -> None:
        """Keep a file."""


def put_states(folder: Shelf, units: Ragged, bundle: Bundle) -> int:
    """Put the states of units into a bundle, in place of those it has for the same model.

    Args:
        folder: has them.
        units: the bundle's words in the model's tokens.
        bundle: is replaced in one step.

    Returns:
        Bytes of the files.

    Raises:
        BundleError: the bundle is damaged.
        StorageError: it cannot be written; it is as it was.
    """
    files = {name: save(tensors) for name, tensors in folder.shards(units)}
    add_state_files(bundle.path, folder.key, files)
    return sum(map(len, files.values()))


def take_states(folder: Shelf, bundle: Bundle) -> None:
    """Take the states that a bundle carries for a model over into the cache.

    Files that are not there, because only a part of the bundle was fetched, are left out, and so
    are those that the cache has.

    Args:
        folder: of the model.
        bundle: whose manifest lists them.

    Raises:
        BundleError: a file is not what the manifest says, or does not hold finite states of units.
    """
    begin = f"{INDEX_FOLDER}/{STATES_PREFIX}{folder.key}."
    for member, record in bundle.manifest.files.items():
        if not member.startswith(begin) or not (bundle.path / member).exists():
            continue
        name = member.removeprefix(begin)
        if not folder.has(name):
            data = read_checked(bundle.path, member, record)
            _require_states(data, str(bundle.path / member), folder)
            folder.put(name, data.tobytes())


def _require_states(data: NDArray[np.uint8], where: str, folder: Shelf) -> None:
    """Refuse a file that the cache could not have written."""
    entries = parse_file(data, where)
    found = {name: (entry.spec.dtype, entry.spec.shape) for name, entry in entries.items()}
    bounds, ids = (found[name][1] if name in found else () for name in ("offsets", "ids"))
    units = bounds[0] - 1 if len(bounds) == 1 else 0
    wanted = {
        "states": ("F16", (units, folder.size)),
        "largest": ("F32", (folder.size,)),
        "offsets": ("I64", (units + 1,)),
        "ids": ("I64", ids[:1]),
    }
    if found != wanted or units < 1:
        raise _refused(where, "does not hold the states of units")
    arrays: dict[str, NDArray[Any]] = {
        name: as_array(entry.spec, data[entry.start : entry.stop])
        for name, entry in entries.items()
    }
    for name, most in (("states", 1.0), ("largest", MAX_MAGNITUDE)):
        if not all_finite(entries[name].spec, arrays[name], most):
            raise _refused(where, f"has {name} that are not finite or too large")
    offsets, values = arrays["offsets"], arrays["ids"]
    if offsets[0] != 0 or offsets[-1] != len(values) or bool((np.diff(offsets) <= 0).any()):
        raise _refused(where, "has offsets that do not rise from 0 to the number of ids")
    if not 0 <= values.min() <= values.max() < folder.model.vocabulary_size:
        raise _refused(where, f"has ids that {folder.model.name} does not have")


def _refused(where: str, what: str) -> BundleError:
    return BundleError(f"{where} {what}", remedy="fetch or build the bundle again")
