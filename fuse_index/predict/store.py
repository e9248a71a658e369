"""Hidden states of units, kept between runs: each is computed once for a model and its contexts.

A folder holds the states of one model in one set of contexts, as files of up to a few thousand
units each. Runs with other words, or with more, add files; what an interrupted run has finished
stays. States are kept in half precision, and used as they are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import filelock
import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fuse_index.bundle.layout import INDEX_FOLDER, STATES_PREFIX
from fuse_index.common.cache import cache_folder
from fuse_index.common.files import replacing
from fuse_index.common.progress import Tick
from fuse_index.models.base import Model
from fuse_index.models.contents import weights_hash, weights_version
from fuse_index.predict.carried import take_states
from fuse_index.predict.states import Contexts, hidden_states
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.bundle import Bundle

logger = logging.getLogger(__name__)

KEPT_FROM = 1024
"""Units from which on their states are kept; fewer are computed again in seconds."""
_LAYOUT = "3"
"""Raised when states of older versions are no longer valid."""
_SHARD = 2048
"""Units of a file: what an interrupted run loses at most."""
_MOST_IN_MEMORY = 2
_SUFFIX = ".safetensors"
_offered: WeakKeyDictionary[Model, dict[Path, Bundle]] = WeakKeyDictionary()
_made: WeakKeyDictionary[Model, dict[str, Tensor]] = WeakKeyDictionary()


def kept_states(
    model: Model,
    tokens: Ragged,
    contexts: Contexts | None = None,
    progress: Tick | None = None,
) -> Tensor:
    """Return :func:`~fuse_index.predict.states.hidden_states`, from the cache if they are there.

    The last few of every model stay in memory. The cache depends on all weights of the model,
    their dtype, and the contexts; units that it lacks are computed and added, by one process at a
    time. A cache that cannot be read or written is left out.

    Args:
        model: runs the units.
        tokens: ``N`` units in its tokens.
        contexts: the contexts.
        progress: called with (units done, units to compute) while states are computed.

    Returns:
        ``(N, (layers + 1) * width)`` float32 on the model's device, rounded to half precision
        relative to the largest in each column where they are kept.

    Raises:
        ModelError: the model's layers cannot be told apart.
    """
    contexts = contexts or Contexts()
    made = _made.setdefault(model, {})
    key = _version(model, tokens, contexts)
    found = made.pop(key, None)
    if found is None:
        found = _find(model, tokens, contexts, progress)
    made[key] = found  # the latest comes last
    while len(made) > _MOST_IN_MEMORY:
        del made[next(iter(made))]
    return found


def are_kept(model: Model, tokens: Ragged, contexts: Contexts | None = None) -> bool:
    """Whether the states of units are in memory or in the cache, and cost nothing."""
    contexts = contexts or Contexts()
    if _version(model, tokens, contexts) in _made.get(model, {}):
        return True
    if len(tokens) < KEPT_FROM or model.offloaded:
        return False
    return not len(StateFolder(model, contexts).missing(tokens))


def _find(model: Model, tokens: Ragged, contexts: Contexts, progress: Tick | None) -> Tensor:
    if len(tokens) < KEPT_FROM or model.offloaded:  # the weights of the latter cannot be hashed
        return hidden_states(model, tokens, contexts, progress)
    return StateFolder(model, contexts).states(tokens, progress).to(model.device)


class StateFolder:
    """The states of one model in one set of contexts, on the disk.

    States that bundles carry (:func:`offer_states`) are taken over first.

    Args:
        model: runs the units.
        contexts: the contexts.

    Attributes:
        key: a hash of what the states depend on beside the unit.
        path: the folder.
        size: numbers of a unit, ``(layers + 1) * width``.
    """

    def __init__(self, model: Model, contexts: Contexts) -> None:
        self.model, self.contexts = model, contexts
        self.key = _key(model, contexts)
        self.path = cache_folder() / "layers" / self.key
        self.size = (len(model.layers) + 1) * model.width
        for bundle in _offered.get(model, {}).values():
            take_states(self, bundle)

    def missing(self, units: Ragged) -> NDArray[np.int64]:
        """Return the rows of units that no file has, each unit once, without reading states."""
        known = {unit for path in self._files() for unit in _keys(_units_of(path))}
        wanted = {unit: row for row, unit in enumerate(_keys(units)) if unit not in known}
        return np.array(sorted(wanted.values()), dtype=np.int64)

    def states(self, units: Ragged, progress: Tick | None = None) -> Tensor:
        """Return the states of units; those that no file has are computed and kept.

        Args:
            units: ``N`` rows of ids.
            progress: called with (units done, units to compute), over all contexts together.

        Returns:
            ``(N, (layers + 1) * width)`` float32 on the CPU.
        """
        place = {unit: i for i, unit in enumerate(dict.fromkeys(_keys(units)))}
        if len(place) == len(units):
            return self._states(units, progress)
        rows = [place[unit] for unit in _keys(units)]  # some units are the same tokens
        _, first = np.unique(rows, return_index=True)
        return self._states(units.select(first), progress)[rows]

    def _states(self, units: Ragged, progress: Tick | None) -> Tensor:
        found, missing = self._read(units)
        if not len(missing):
            return found
        with self._lock():
            found, missing = self._read(units)  # another process may have computed them meanwhile
            missing = missing[np.argsort(units.lengths[missing], kind="stable")]
            whole = self.contexts.count * len(missing)
            for start in range(0, len(missing), _SHARD):
                rows = missing[start : start + _SHARD]
                tick = _shifted(progress, self.contexts.count * start, whole)
                own = units.select(rows)
                halved = _halved(hidden_states(self.model, own, self.contexts, tick))
                self._write(own, halved)
                found[rows] = _restored(*halved)
        return found

    def _read(self, units: Ragged) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the states of units as far as files have them, and the rows they lack."""
        wanted = {unit: row for row, unit in enumerate(_keys(units))}
        found = torch.empty(len(units), self.size)
        for path in self._files():
            places = [(wanted.pop(u, -1), i) for i, u in enumerate(_keys(_units_of(path)))]
            pairs = [pair for pair in places if pair[0] >= 0]
            if pairs:
                rows, own = torch.tensor(pairs).unbind(1)
                with safe_open(path, "pt") as file:
                    states = _restored(file.get_tensor("states")[own], file.get_tensor("largest"))
                found[rows] = states
        return found, np.array(sorted(wanted.values()), dtype=np.int64)

    def shards(self, units: Ragged) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield what the files hold of units, as files of their own: a name, and the tensors.

        Args:
            units: ``N`` rows of ids.
        """
        wanted = set(_keys(units))
        for path in self._files():
            own = _units_of(path)
            rows = [i for i, unit in enumerate(_keys(own)) if unit in wanted]
            wanted.difference_update(_keys(own))
            if rows:
                with safe_open(path, "pt") as file:
                    states = file.get_tensor("states")[rows], file.get_tensor("largest")
                part = own.select(rows)
                yield _name(part), _tensors(part, states)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return (self.path / name).exists()

    def put(self, name: str, data: bytes) -> None:
        """Keep a file, if the folder can be written."""
        self._keep(name, lambda part: part.write_bytes(data))

    def _files(self) -> list[Path]:
        return sorted(self.path.glob(f"*{_SUFFIX}")) if self.path.is_dir() else []

    def _write(self, units: Ragged, halved: tuple[Tensor, Tensor]) -> None:
        self._keep(_name(units), lambda part: save_file(_tensors(units, halved), part))

    def _keep(self, name: str, write: Callable[[Path], object]) -> None:
        try:
            with replacing(self.path / name) as part:
                write(part)
        except (OSError, safetensors.SafetensorError) as error:
            logger.warning("%s: %s; the states are not kept", self.path, error)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one process compute at a time, where the folder can be written."""
        with ExitStack() as held:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(filelock.FileLock(self.path / ".lock"))
            except OSError:  # said once the first file cannot be written
                pass
            yield


def offer_states(model: Model, bundle: Bundle) -> None:
    """Let the cache take over what a bundle carries for a model, once states are asked for.

    Args:
        model: whose states are looked for.
        bundle: may have some.
    """
    begin = f"{INDEX_FOLDER}/{STATES_PREFIX}"
    if any(name.startswith(begin) for name in bundle.manifest.files):
        _offered.setdefault(model, {})[bundle.path] = bundle


def _name(units: Ragged) -> str:
    """The name of the file that holds the states of these units."""
    return hashlib.blake2b(b"".join(_keys(units)), digest_size=10).hexdigest() + _SUFFIX


def _tensors(units: Ragged, halved: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """What a file of units and their states holds."""
    return {
        "states": halved[0],
        "largest": halved[1],
        "ids": torch.from_numpy(units.values),
        "offsets": torch.from_numpy(units.offsets),
    }


def _shifted(progress: Tick | None, before: int, whole: int) -> Tick | None:
    """Report the progress of a part as that of the whole."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, whole)


def _halved(states: Tensor) -> tuple[Tensor, Tensor]:
    """Round to half precision relative to the largest of each column: no column overflows."""
    states = states.cpu()
    largest = states.abs().amax(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
    return (states / largest).half(), largest


def _restored(halved: Tensor, largest: Tensor) -> Tensor:
    """Undo :func:`_halved`: ``(n, s)`` float32."""
    return halved.float() * largest


def _keys(units: Ragged) -> list[bytes]:
    """Return a key for every unit: its ids."""
    return [row.astype(np.int32).tobytes() for row in units]


def _units_of(path: Path) -> Ragged:
    """Read which units a file has; none where it is damaged."""
    try:
        with safe_open(path, "np") as file:
            return Ragged(file.get_tensor("offsets"), file.get_tensor("ids"))
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("%s: %s; computed again", path, error)
        return Ragged.from_lists([])


def _version(model: Model, tokens: Ragged, contexts: Contexts) -> str:
    """A key within the process: every change of a tensor in place raises its version."""
    digest = hashlib.blake2b(repr(contexts).encode(), digest_size=20)
    digest.update(tokens.offsets.tobytes())
    digest.update(tokens.values.tobytes())
    digest.update(weights_version(model).encode())
    return digest.hexdigest()


def _key(model: Model, contexts: Contexts) -> str:
    """The name of the folder: a hash of what states depend on beside the unit."""
    depends = {
        "layout": _LAYOUT,
        "dtype": str(model.dtype),
        "device": model.device.type,  # which rounds otherwise
        "contexts": asdict(contexts),
        "tokenizer": model.words.fingerprint,  # contexts without texts are drawn from it
        "weights": weights_hash(model),
    }
    encoded = json.dumps(depends, sort_keys=True).encode()
    return hashlib.blake2b(encoded, digest_size=20).hexdigest()
