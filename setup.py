"""Build of the native core: CMake and Ninja, no torch needed.

``FUSE_INDEX_CUDA`` decides about the CUDA kernels: ``auto`` (default) builds them for the GPUs of
this machine and records why, where there are none, they are left out; ``0`` leaves them out; ``1``
builds them for every architecture, as wheels are, and fails where it cannot.
``FUSE_INDEX_CUDA_ARCHS`` names the architectures instead, e.g. ``"90"`` or ``"80;90"``.
``FUSE_INDEX_STRICT=1`` turns warnings into errors. The outcome is kept beside the operators in
``_build_info.json``; ``fuse-index doctor`` shows it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("fuse_index") / "ops"
INFO = "_build_info.json"
# sm_80 code also runs on 8.6 and 8.9; newer devices compile the PTX of the newest.
ARCHS = (80, 90, 100, 120)


class BuildError(Exception):
    """A part of the native core cannot be built; the text says why and what to do."""


def version() -> str:
    """Return the version that pyproject.toml declares."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "([^"]+)"', text, flags=re.MULTILINE)
    if match is None:
        raise SystemExit("setup.py: pyproject.toml has no version")
    return match.group(1)


def cuda_choice() -> str:
    """Return ``auto``, ``0`` or ``1`` from the environment."""
    choice = os.environ.get("FUSE_INDEX_CUDA", "auto")
    if choice not in {"auto", "0", "1"}:
        raise SystemExit(f"FUSE_INDEX_CUDA={choice!r}; expected auto, 0 or 1")
    return choice


def find_tool(name: str) -> str:
    """Return a build tool from the interpreter's environment or the PATH.

    Raises:
        BuildError: it is nowhere.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise BuildError(f"{name} not found; pip install {name}")
    return found


def find_compiler() -> str:
    """Return the C++ compiler that CMake will take.

    Raises:
        BuildError: there is none.
    """
    asked = os.environ.get("CXX")
    for name in [asked] if asked else ["c++", "g++", "clang++", "cl"]:
        found = shutil.which(name.split()[0])
        if found:
            return found
    given = f"CXX={asked} does not exist" if asked else "no C++ compiler on the PATH"
    raise BuildError(f"{given}; install one with C++17, e.g. g++ 9 or newer")


def find_nvcc() -> str:
    """Return nvcc from CUDACXX, CUDA_HOME, the PATH or the usual folder.

    Raises:
        BuildError: there is none.
    """
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    candidates = [os.environ.get("CUDACXX"), *(f"{home}/bin/nvcc" for home in homes if home)]
    for candidate in [*candidates, "nvcc", "/usr/local/cuda/bin/nvcc"]:
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
    raise BuildError("no CUDA toolkit: nvcc not found; install one or set CUDA_HOME")


def gpu_architectures() -> set[int]:
    """Return the compute capabilities of the GPUs here, 90 for 9.0; empty without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return set()
    command = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        return set()
    return {
        int(a) * 10 + int(b) for a, b in re.findall(r"^(\d+)\.(\d)", listed.stdout, re.MULTILINE)
    }


def supported_architectures(nvcc: str) -> list[int]:
    """Return those of ``ARCHS`` that the toolkit compiles for.

    Raises:
        BuildError: it knows none.
    """
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False)
    known = {int(code) for code in re.findall(r"sm_(\d+)", listed.stdout)}
    usable = [arch for arch in ARCHS if arch in known]
    if not usable:
        raise BuildError(f"{nvcc} knows none of the architectures {ARCHS}; CUDA 11.8 or newer does")
    return usable


def architectures(nvcc: str, everywhere: bool) -> str:
    """Return the CMake list of architectures to compile for.

    Args:
        nvcc: the compiler.
        everywhere: all that the toolkit knows, and PTX of the newest for devices to come; else
            those of the GPUs here, each by the newest code that it runs.

    Raises:
        BuildError: the toolkit knows none, or there is no GPU here to compile for.
    """
    asked = os.environ.get("FUSE_INDEX_CUDA_ARCHS")
    if asked:
        return ";".join(re.findall(r"[^\s,;]+", asked))
    usable = supported_architectures(nvcc)
    if everywhere:
        return ";".join([*(f"{arch}-real" for arch in usable), f"{usable[-1]}-virtual"])
    present = gpu_architectures()
    if not present:
        raise BuildError(
            "no GPU here to compile for; FUSE_INDEX_CUDA=1 compiles for all (10 minutes), "
            "FUSE_INDEX_CUDA_ARCHS=90 for one architecture"
        )
    chosen = {code_for(device, usable) for device in present} - {""}
    if not chosen:
        capabilities = ", ".join(f"{device / 10:.1f}" for device in sorted(present))
        raise BuildError(f"the GPUs here have compute capability {capabilities}, below 8.0")
    return ";".join(sorted(chosen))


def code_for(device: int, usable: list[int]) -> str:
    """Return what a GPU runs: machine code of its major version, else PTX of an older one."""
    older = [arch for arch in usable if arch <= device]
    if not older:
        return ""
    kind = "real" if older[-1] // 10 == device // 10 else "virtual"
    return f"{older[-1]}-{kind}"


def run(command: list[str]) -> None:
    """Run one build step and pass its output on as it comes (``pip install -v`` shows it).

    Raises:
        BuildError: it failed; the last lines of its output are in the text.
    """
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode != 0:
        tail = ([line for line in lines if "rror" in line] or lines)[-3:]
        raise BuildError(f"{Path(command[0]).name} failed: " + " | ".join(t.strip() for t in tail))


def compile_module(work: Path, output: Path, nvcc: str | None) -> str:
    """Configure and build the module into ``output``; return the architectures built.

    Raises:
        BuildError: the configuration or the compilation failed.
    """
    import pybind11  # noqa: PLC0415 - a build requirement, not needed for an sdist

    shutil.rmtree(work, ignore_errors=True)  # a cache of another environment misleads CMake
    archs = architectures(nvcc, everywhere=cuda_choice() == "1") if nvcc else ""
    print(f"fuse_index: compiling the native core{f', CUDA {archs}' if archs else ''}", flush=True)
    command = [
        find_tool("cmake"),
        *("-S", str(ROOT), "-B", str(work), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
        f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DFUSE_INDEX_VERSION={version()}",
        f"-DFUSE_INDEX_OUTPUT={output}",
        f"-DFUSE_INDEX_STRICT={'ON' if os.environ.get('FUSE_INDEX_STRICT') == '1' else 'OFF'}",
        f"-DFUSE_INDEX_WITH_CUDA={'ON' if nvcc else 'OFF'}",
    ]
    if nvcc:
        command += [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCMAKE_CUDA_ARCHITECTURES={archs}"]
    find_compiler()
    run(command)
    run([find_tool("cmake"), "--build", str(work), "--target", "_C"])
    return archs


def build_native(work: Path, output: Path) -> dict[str, object]:
    """Build as much as FUSE_INDEX_CUDA asks for and the machine allows.

    Returns:
        The build information: version, native, cuda, archs and, for what is missing, the reason.

    Raises:
        BuildError: under ``FUSE_INDEX_CUDA=1``, where the CUDA part cannot be built.
    """
    choice = cuda_choice()
    info: dict[str, object] = {"version": version(), "native": False, "cuda": False, "archs": ""}
    reason = "left out on request (FUSE_INDEX_CUDA=0)"
    if choice != "0":
        try:
            info["archs"] = compile_module(work, output, find_nvcc())
        except BuildError as error:
            if choice == "1":
                raise
            reason = str(error)
        else:
            return {**info, "native": True, "cuda": True, "reason": ""}
    try:
        compile_module(work, output, None)
    except BuildError as error:
        return {**info, "reason": f"no native code: {error}"}
    return {**info, "native": True, "reason": f"no CUDA kernels: {reason}"}


def remove_stale(folder: Path) -> None:
    """Delete modules and build information that an earlier build left in ``folder``."""
    for stale in [*folder.glob("_C*.so"), *folder.glob("_C*.pyd"), folder / INFO]:
        stale.unlink(missing_ok=True)


class BuildPy(build_py):
    """Copies the Python files; whatever native code lies there from an earlier build goes."""

    def run(self) -> None:
        """Copy, then drop what is stale; build_ext runs later and adds what is current."""
        super().run()
        if not self.editable_mode:
            remove_stale(Path(self.build_lib) / PACKAGE)


class BuildExt(build_ext):
    """Hands the one extension to CMake and records the outcome."""

    def run(self) -> None:
        """Build the module beside the operators, in place or under ``build_lib``."""
        output = (ROOT if self.inplace else Path(self.build_lib).resolve()) / PACKAGE
        output.mkdir(parents=True, exist_ok=True)
        remove_stale(output)
        try:
            info = build_native(Path(self.build_temp).resolve() / "cmake", output)
        except BuildError as error:
            text = f"FUSE_INDEX_CUDA=1, but the CUDA kernels cannot be built: {error}"
            raise SystemExit(text) from error
        (output / INFO).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
        print(f"fuse_index: native code {info['native']}, CUDA {info['cuda']} {info['reason']}")
        self.built = bool(info["native"])

    def get_outputs(self) -> list[str]:
        """Return the files this command adds to an installation."""
        folder = Path(self.build_lib) / PACKAGE
        return [str(path) for path in [*folder.glob("_C*"), folder / INFO] if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is copied from the source tree."""
        return {}


class Wheel(bdist_wheel):
    """A wheel without native code is pure: it installs anywhere."""

    def run(self) -> None:
        """Build the extension first, because the tag of the wheel depends on the outcome."""
        self.run_command("build")
        self.skip_build = True
        self.root_is_pure = not self.get_finalized_command("build_ext").built
        if self.root_is_pure:
            self.distribution.ext_modules = []  # else the files go to the platform's folder
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Return ``py3-none-any`` for a pure wheel."""
        return ("py3", "none", "any") if self.root_is_pure else super().get_tag()


setup(
    ext_modules=[Extension("fuse_index.ops._C", sources=[])],
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt, "bdist_wheel": Wheel},
)
