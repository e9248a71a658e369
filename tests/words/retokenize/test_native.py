from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[3] / "csrc"
FLAGS = ["-std=c++17", "-O0", "-g", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-pthread"]


def build_and_run(folder: Path, sanitizers: str) -> subprocess.CompletedProcess[str]:
    compiler = next(
        (found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None
    )
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = folder / "words_test"
    sources = [*sorted((CSRC / "tests").glob("*.cpp")), *sorted((CSRC / "words").glob("*.cpp"))]
    objects = [folder / f"{source.stem}.o" for source in sources]
    flags = [*FLAGS, f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]

    def build(*arguments: object) -> None:
        command = [compiler, *flags, *map(str, arguments)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode and "sanitizer" in built.stderr.lower() + built.stdout.lower():
            pytest.skip(f"the compiler lacks the sanitizers {sanitizers}")
        assert built.returncode == 0, built.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda source, made: build("-c", source, "-o", made), sources, objects))
    build(*objects, "-o", program)
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "sanitizers", ["address,undefined", pytest.param("thread", marks=pytest.mark.slow)]
)
def test_the_core_under_sanitizers(tmp_path, sanitizers):
    done = build_and_run(tmp_path, sanitizers)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer does not run on this kernel")
    assert (done.returncode, done.stderr) == (0, "")
