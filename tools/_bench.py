"""What all benchmarks share: machine, versions, medians, peak memory, the table and the JSON.

A benchmark prints one table, or with ``--json`` one JSON object on stdout: ``benchmark``,
``machine``, ``versions`` and ``rows``. Every row has ``case``, ``seconds`` (median),
``baseline_seconds``, ``ratio`` (how many times faster than the baseline, whose name is in
``baseline``), and figures of its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # a fresh clone will do; an installed package comes first
# Taken before the benchmark itself makes the machine busy.
_LOAD_AT_START = os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options every benchmark has."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--json", action="store_true", help="print one JSON object")
    return result


def machine() -> dict[str, Any]:
    """Describe the machine (processor, memory, GPU, load at the start) and the native core."""
    import torch

    from fuse_index.ops import native_status

    status = native_status()
    core = f"CUDA {status.archs}" if status.cuda else "CPU" if status.native else "none"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _proc_field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "gpus": gpus,
        "native_core": core,
        "load_at_start": _LOAD_AT_START,
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of this package, Python, torch, numpy and ``packages``, if installed."""
    from fuse_index import __version__

    result = {"fuse-index": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", *packages):
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = "absent"
    return result


def times(
    call: Callable[[], Any],
    repeats: int,
    *,
    warmup: int = 1,
    synchronize: Callable[[], Any] | None = None,
) -> list[float]:
    """Return the wall-clock seconds of ``repeats`` calls after ``warmup`` untimed ones.

    ``synchronize`` is called before a clock is read, for devices that run ahead of Python.
    """
    wait = synchronize or (lambda: None)
    seconds = []
    for index in range(warmup + repeats):
        wait()
        start = time.perf_counter()
        call()
        wait()
        if index >= warmup:
            seconds.append(time.perf_counter() - start)
    return seconds


def median(seconds: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(seconds)


def peak_rss() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    field = _proc_field("/proc/self/status", "VmHWM")
    if field:  # unlike ru_maxrss it does not remember what stood here before exec
        return int(field.split()[0]) * 1024
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def row(
    case: str, seconds: float, baseline: str, baseline_seconds: float | None, **figures: Any
) -> Row:
    """Make one row of the result."""
    ratio = None if baseline_seconds is None else baseline_seconds / seconds
    return {
        "case": case,
        "seconds": seconds,
        "baseline": baseline,
        "baseline_seconds": baseline_seconds,
        "ratio": ratio,
        **figures,
    }


def run_worker(script: str | Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a script in a process of its own, so that its peak memory is its own; read its JSON."""
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def publish(
    name: str, rows: Sequence[Row], as_json: bool, packages: Sequence[str] = (), **extra: Any
) -> None:
    """Print the result: a table, or one JSON object."""
    result = {
        "benchmark": name,
        "machine": machine(),
        "versions": versions(*packages),
        **extra,
        "rows": list(rows),
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for title in ("machine", "versions"):
        print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in result[title].items()))
    for key, value in extra.items():
        print(f"{key}: {value}")
    for entry in rows:
        baseline = entry["baseline_seconds"]
        versus = (
            ""
            if baseline is None
            else (f", {entry['baseline']} {_seconds(baseline)}: {entry['ratio']:.1f}x")
        )
        print(f"{entry['case']}: {_seconds(entry['seconds'])}{versus}")
        for key, value in entry.items():
            if key not in ("case", "seconds", "baseline", "baseline_seconds", "ratio"):
                shown = f"{value:.4g}" if isinstance(value, float) else value
                print(f"    {key}: {shown}")


def _seconds(value: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def _proc_field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((ln.split(":", 1)[1].strip() for ln in lines if ln.startswith(name)), "")


def _memory_gb() -> float | None:
    field = _proc_field("/proc/meminfo", "MemTotal")
    return round(int(field.split()[0]) * 1024 / 1e9, 1) if field else None
