"""Probes of ``fuse-index doctor`` in a fresh process: one JSON object a line, as they end.

A library that hangs or kills its process on import
takes this one with it, not the doctor.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from importlib import import_module
from typing import Any

MODULES = (
    "numpy",
    "torch",
    "fuse_index.ops",
    "safetensors",
    "transformers",
    "torchvision",
    "open_clip",
    "faiss",
)
"""Imported in this order; each one's time is what it adds to those before it."""


def probe_import(name: str) -> dict[str, Any]:
    """Import a module and say how long it took, or why it failed."""
    start = time.perf_counter()
    try:
        import_module(name)
    except Exception as error:
        return {"import": name, "error": f"{type(error).__name__}: {error}"}
    return {"import": name, "seconds": round(time.perf_counter() - start, 3)}


def probe_native() -> dict[str, Any]:
    """Say what of the native core can be used, and why the rest cannot."""
    from fuse_index.ops._native import status

    return dataclasses.asdict(status())


def probe_devices() -> list[dict[str, Any]]:
    """List the devices torch can use."""
    import torch

    devices: list[dict[str, Any]] = [{"device": "cpu", "threads": torch.get_num_threads()}]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "memory_gb": round(properties.total_memory / 1e9, 1),
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps"})
    return devices


def main() -> None:
    """Write the findings."""
    for name in MODULES:
        _say({"importing": name})
        _say(probe_import(name))
    for key, probe in (("native", probe_native), ("devices", probe_devices)):
        try:
            _say({key: probe()})
        except Exception as error:
            _say({key: None, "error": f"{type(error).__name__}: {error}"})


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
