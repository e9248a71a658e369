"""Loads the native extension, checks it, and keeps the reason where a part is missing.

The import never fails: without the extension, or on a machine without a driver, the operators run
from pure torch. ``status()`` says what is there and why the rest is not; the reason is logged
once, when a CUDA tensor meets the missing kernels.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

_LOGGER = logging.getLogger(__name__)
_INFO = Path(__file__).with_name("_build_info.json")
_DISABLED = "FUSE_INDEX_NATIVE=0 is set"


@dataclass(frozen=True)
class NativeStatus:
    """What of the native core can be used here.

    Attributes:
        native: the extension module is loaded (CPU kernels, words).
        cuda: the CUDA kernels are in it and a driver that runs them is there.
        archs: the CUDA architectures it was built for.
        runtime: CUDA runtime it was built with, ``"13.0"``; empty without.
        driver: newest CUDA the driver supports; empty without.
        reason: why a part is missing; empty when nothing is.
    """

    native: bool
    cuda: bool
    archs: str
    runtime: str
    driver: str
    reason: str


def _build_reason() -> str:
    """Return the reason recorded by the build, for a module that is not there."""
    try:
        info: dict[str, Any] = json.loads(_INFO.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "the package runs from a source tree that was not built; pip install ."
    except (OSError, ValueError) as error:
        return f"{_INFO.name} cannot be read: {error}"
    return str(info.get("reason") or "the module was built but its file is missing; reinstall")


def _expected_version() -> str | None:
    try:
        return version("fuse-index")
    except PackageNotFoundError:
        return None


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    """Import the extension once: ``(module, reason why not)``."""
    if os.environ.get("FUSE_INDEX_NATIVE", "1") == "0":
        return None, _DISABLED
    try:
        module = import_module("fuse_index.ops._C")
    except ModuleNotFoundError:
        return None, _build_reason()
    except ImportError as error:
        return None, f"the extension cannot be loaded: {error}"
    expected = _expected_version()
    if expected is not None and module.version != expected:
        return None, f"the extension is of version {module.version}, the package of {expected}"
    return module, ""


def _dotted(number: int) -> str:
    """``13000 -> "13.0"``."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


@functools.cache
def status() -> NativeStatus:
    """Say what can be used here and why the rest cannot."""
    module, reason = _load()
    if module is None:
        return NativeStatus(False, False, "", "", "", reason)
    if not module.has_cuda:
        return NativeStatus(True, False, "", "", "", _build_reason())
    runtime, driver = module.cuda_versions()
    if driver == 0:
        reason = "no CUDA kernels: no driver on this machine"
    elif driver // 1000 < runtime // 1000:
        reason = (
            f"no CUDA kernels: built with CUDA {_dotted(runtime)} but the driver supports "
            f"{_dotted(driver)}; update the driver or build with an older toolkit"
        )
    return NativeStatus(
        True, not reason, module.cuda_archs, _dotted(runtime), _dotted(driver), reason
    )


def module() -> ModuleType | None:
    """Return the extension module, or ``None`` (then ``status().reason`` says why)."""
    return _load()[0]


@functools.cache
def cuda_module() -> ModuleType | None:
    """Return the extension if its CUDA kernels can run; else log why not, once."""
    found = status()
    if not found.cuda:
        _LOGGER.warning("CUDA tensors take the slower torch composition: %s", found.reason)
        return None
    return _load()[0]
