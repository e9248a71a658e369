"""``fuse-index doctor``: checks the installation, and predicts a build of two models."""

from __future__ import annotations

import json as json_module
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

import fuse_index
from fuse_index.cli import _console, _flags, _preflight
from fuse_index.cli._probe import MODULES
from fuse_index.cli._words import TextFlags
from fuse_index.errors import OptionError

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "open_clip_torch",
    "faiss-cpu",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "typer",
    "rich",
)
_OPTIONAL = {"torchvision"}
_TIMEOUT = 300.0
_LITTLE_SPACE = 1e9
# -m and -c put the working directory first on the path: in a clone, sources that are not built
# would hide the installed package (-P leaves it out from Python 3.11 on).
_PROBE = (
    "import sys, runpy; sys.path.remove(''); "
    "runpy.run_module('fuse_index.cli._probe', run_name='__main__')"
)


@_flags.with_flags
def doctor_command(
    source: Annotated[
        str | None,
        typer.Argument(metavar="[SOURCE", help="With TARGET: look at this pair before a build."),
    ] = None,
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET]", help="The model whose loss will be used.")
    ] = None,
    *,
    text: TextFlags,
    groups: _flags.Groups = True,
    offline: _flags.Offline = False,
    json: _flags.Json = False,
) -> None:
    """Check this installation, or look at two models before a build.

    Without arguments: shows the native core (and why a part of it is missing), the devices, the
    versions of what the package stands on, how long each import takes, and the Hub's cache on the
    disk. Problems are listed last with what to do; they do not change the exit code.

    With SOURCE and TARGET: tries both tokenizers on the words of the corpus (or of the list, or, if
    neither is given, on those that are one token of either model), and says which will not align
    and why, how large the bundle will be, how long a build will take and in how much memory, what
    its use takes, and whether the native core will do it. A corpus of more than 67 MB is sampled.
    """
    if source is not None and target is not None:
        report = _preflight.examine_pair((source, target), text, groups=groups, offline=offline)
        show = _preflight.show
    elif source is not None or text.corpus or text.words is not None:
        raise OptionError(
            "doctor: " + ("one model" if source is not None else "words but no models"),
            expected="SOURCE and TARGET, or neither",
            remedy="name both models",
        )
    else:
        report, show = examine(), _show
    _console.answer(json, report, lambda: show(report))


def examine() -> dict[str, Any]:
    """Gather everything that ``--json`` prints."""
    report: dict[str, Any] = {
        "fuse_index": fuse_index.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "native": None,
        "devices": [],
        "imports": {},
        "cache": _cache(),
    }
    with _console.ProgressBar() as bar:
        problems = list(_run_probe(report, bar))
    report["problems"] = [*problems, *_judge(report)]
    return report


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cache() -> dict[str, Any]:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    existing = folder
    while not existing.exists():
        existing = existing.parent
    return {
        "folder": str(folder),
        "exists": folder.exists(),
        "free_gb": round(shutil.disk_usage(existing).free / 1e9, 1),
    }


def _run_probe(report: dict[str, Any], bar: _console.ProgressBar) -> Iterator[str]:
    """Fill in imports, native core and devices from a process of their own; yield problems."""
    command = [sys.executable, "-c", _PROBE]
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError as error:
        yield f"{sys.executable} cannot be started: {error}"
        return
    importing, passed = "the first module", threading.Event()

    def kill() -> None:
        passed.set()
        process.kill()

    deadline = threading.Timer(_TIMEOUT, kill)
    deadline.daemon = True
    deadline.start()
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                finding = _parse(line)
                if "importing" in finding:
                    importing = finding["importing"]
                    bar(f"importing {importing}", len(report["imports"]), len(MODULES))
                elif "import" in finding:
                    seconds = finding.get("seconds", finding.get("error"))
                    report["imports"][finding["import"]] = seconds
                else:
                    known = [key for key in ("native", "devices") if key in finding]
                    report.update({key: finding[key] for key in known})
        except BaseException:
            process.kill()
            raise
        finally:
            deadline.cancel()
    if passed.is_set():
        yield f"importing {importing} took more than {_TIMEOUT:.0f} seconds; reinstall it"
    elif process.returncode != 0:
        yield f"importing {importing} ended the process (code {process.returncode}); reinstall it"


def _parse(line: str) -> dict[str, Any]:
    """Read a line of the probe; lines that libraries print on import are skipped."""
    try:
        value = json_module.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _judge(report: dict[str, Any]) -> Iterator[str]:
    for package, found in report["packages"].items():
        if found is None and package not in _OPTIONAL:
            yield f"{package} is not installed; run 'pip install fuse-index' again"
    for module, result in report["imports"].items():
        missing = module in _OPTIONAL and report["packages"].get(module) is None
        if isinstance(result, str) and not missing:
            yield f"{module} cannot be imported ({result}); reinstall it"
    native = report["native"]
    if native is not None and native["reason"]:
        yield f"native core: {native['reason']} (results are the same without it, only slower)"
    if report["cache"]["free_gb"] * 1e9 < _LITTLE_SPACE:
        yield f"{report['cache']['folder']} has little space left; set HF_HOME to another disk"


def _show(report: dict[str, Any]) -> None:
    _console.say(
        f"fuse_index {report['fuse_index']}, Python {report['python']}, {report['platform']}"
    )
    if report["native"] is not None:
        _show_pairs(["native core", ""], report["native"])
    _console.print_table(
        ["device", "name", "memory", "capability"],
        [
            [
                device["device"],
                device.get("name", f"{device.get('threads', '')} threads".strip()),
                f"{device['memory_gb']} GB" if "memory_gb" in device else "",
                device.get("capability", ""),
            ]
            for device in report["devices"]
        ],
    )
    _show_pairs(["package", "version"], report["packages"])
    _show_pairs(["import", "seconds it adds"], report["imports"])
    cache = report["cache"]
    _console.say(f"Hub cache: {cache['folder']}, {cache['free_gb']} GB free")
    for problem in report["problems"]:
        _console.say(f"problem: {_console.one_line(problem)}")
    if not report["problems"]:
        _console.say("no problems found")


def _show_pairs(header: list[str], pairs: dict[str, Any]) -> None:
    _console.print_table(header, [[key, _text(value)] for key, value in pairs.items()])


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
