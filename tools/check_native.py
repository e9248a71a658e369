"""Run the native core under the address and undefined-behaviour sanitizers on hostile files.

The core is built with the sanitizers into a temporary folder, beside a copy of the package and its
tests, and the mutations of every file of bundles and word indexes are run against it. FAISS is a
binary of its own: its reads and writes of heap memory are seen where they go through functions that
the sanitizer replaces. Linux with GCC:

    python tools/check_native.py            # 1,000 mutations a file
    python tools/check_native.py --few      # a few, in a minute
    python tools/check_native.py tests/ops  # other tests
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = ("tests/bundle/test_hostile.py", "tests/index/test_hostile.py")
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")
"""What must be loaded before the interpreter's own libraries."""


def build(work: Path) -> None:
    """Build the core with the sanitizers into the copy of the package.

    Raises:
        SystemExit: it cannot be built.
    """
    import pybind11

    version = next(
        line.split('"')[1]
        for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
        if line.startswith("version = ")
    )
    cmake, ninja = (shutil.which(name, path=_path()) for name in ("cmake", "ninja"))
    if cmake is None or ninja is None:
        raise SystemExit("cmake or ninja not found; pip install -e '.[test]'")
    configure = [
        *(cmake, "-S", str(ROOT), "-B", str(work / "build"), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DFUSE_INDEX_VERSION={version}",
        f"-DFUSE_INDEX_OUTPUT={work / 'fuse_index' / 'ops'}",
        *("-DFUSE_INDEX_SANITIZE=ON", "-DFUSE_INDEX_WITH_CUDA=OFF"),
    ]
    for command in (configure, [cmake, "--build", str(work / "build"), "--target", "_C"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the core cannot be built:\n{(done.stdout + done.stderr)[-4000:]}")


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def environment(work: Path) -> dict[str, str]:
    """Return the environment in which the interpreter runs the copy with the sanitizers.

    Raises:
        SystemExit: the compiler has no sanitizers.
    """
    compiler = os.environ.get("CXX", "g++")
    found = []
    for name in LIBRARIES:
        command = [compiler, f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_absolute():
            raise SystemExit(f"{compiler} has no {name}; install GCC's sanitizers")
        found.append(path)
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(found),
        "PYTHONPATH": str(work),
        # The interpreter frees little at its end; what is too large fails instead of ending it.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "OMP_NUM_THREADS": "1",
        "PYTHONMALLOC": "malloc",
    }


SPOILED = """
import importlib.util, numpy, sys
spec = importlib.util.spec_from_file_location("_C", sys.argv[1])
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
floats = [numpy.zeros(n, numpy.float32) for n in (6, 15, 10)]
ints = [numpy.array(v) for v in ([0, 1], [0], [0, 2], [0, 400])]  # 400 rows of 2 that are there
core.cpu_pull_back(*(a.ctypes.data for a in floats + ints), 1, 1, 5, 3, 0, 1)
"""
"""Reads beyond an array on purpose: what does not see that sees nothing."""


def run(work: Path, arguments: list[str]) -> int:
    """Run tests in the copy and return pytest's exit code.

    Raises:
        SystemExit: the sanitizers do not see an error that is made on purpose.
    """
    (core,) = (work / "fuse_index" / "ops").glob("_C*.so")
    given = {"cwd": work, "env": environment(work), "text": True}
    command = [sys.executable, "-c", SPOILED, str(core)]
    done = subprocess.run(command, capture_output=True, check=False, **given)  # type: ignore[call-overload]
    if "heap-buffer-overflow" not in done.stderr:
        raise SystemExit(f"the sanitizers do not work here:\n{done.stdout}{done.stderr}")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    return int(subprocess.run([*command, *arguments], check=False, **given).returncode)  # type: ignore[call-overload]


def main() -> int:
    """Build, run and say the outcome."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", action="store_true", help="only a few mutations a file")
    parser.add_argument("tests", nargs="*", help="other tests than those of hostile files")
    given = parser.parse_args()
    arguments = given.tests or [*HOSTILE, *(() if given.few else ("-m", "slow"))]
    with tempfile.TemporaryDirectory(prefix="fuse-index-native-") as name:
        work = Path(name)
        ignored = shutil.ignore_patterns("_C*", "__pycache__")
        for folder in ("fuse_index", "tests"):
            shutil.copytree(ROOT / folder, work / folder, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", work)
        build(work)
        code = run(work, arguments)
    print("no error was found" if code == 0 else f"WRONG: exit code {code}")
    return code


if __name__ == "__main__":
    sys.exit(main())
