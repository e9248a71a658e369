"""Builds of the package: what lands in the archives, with and without compilers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "LICENSE"]
INFO = "fuse_index/ops/_build_info.json"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what the package is built from."""
    copy = tmp_path_factory.mktemp("tree")
    (copy / "README.md").write_text("# fuse_index\n", encoding="utf-8")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    for folder in ("csrc", "fuse_index"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.json")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    return copy


def build(tree: Path, kind: str, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the build backend as pip does, in this environment."""
    code = f"from setuptools import build_meta as b; print(b.build_{kind}({str(out)!r}))"
    out.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env={**os.environ, "FUSE_INDEX_CUDA": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def without_tools(tmp_path: Path) -> dict[str, str]:
    """An environment in which no compiler and no CUDA toolkit can be found."""
    empty = tmp_path / "bin"
    empty.mkdir()
    missing = str(tmp_path / "missing")
    hidden = dict.fromkeys(("CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH"), missing)
    return {"PATH": str(empty), **hidden}


def wheel_of(folder: Path) -> zipfile.ZipFile:
    """The one wheel in a folder."""
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def info_of(wheel: zipfile.ZipFile) -> dict[str, object]:
    """The build information packed into a wheel."""
    return json.loads(wheel.read(INFO))


def modules_in(wheel: zipfile.ZipFile) -> list[str]:
    """Native modules packed into a wheel."""
    return [n for n in wheel.namelist() if re.search(r"/_C[^/]*\.(so|pyd)$", n)]


@pytest.fixture(scope="module")
def cpu_wheel(tree, tmp_path_factory) -> Path:
    """A wheel with the C++ part only, built from the sdist."""
    work = tmp_path_factory.mktemp("sdist")
    done = build(tree, "sdist", work)
    assert done.returncode == 0, done.stderr
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = packed.getnames()
        packed.extractall(work, filter="data")
    for source in (ROOT / "csrc").rglob("*"):
        if source.suffix in {".h", ".cuh", ".cu", ".cpp"}:
            assert any(n.endswith(str(source.relative_to(ROOT))) for n in names)
    assert not [n for n in names if n.endswith((".so", "_build_info.json"))]
    (unpacked,) = [p for p in work.iterdir() if p.is_dir()]
    done = build(unpacked, "wheel", work / "wheel")
    assert done.returncode == 0, done.stdout + done.stderr
    return work / "wheel"


def test_sdist_builds_a_wheel_with_the_native_module(cpu_wheel):
    wheel = wheel_of(cpu_wheel)
    assert len(modules_in(wheel)) == 1
    assert not wheel.filename.endswith("py3-none-any.whl")
    info = info_of(wheel)
    assert info["native"] is True
    assert info["cuda"] is False
    assert "FUSE_INDEX_CUDA=0" in str(info["reason"])


def test_the_module_links_neither_torch_nor_the_cuda_runtime_and_imports(cpu_wheel, tmp_path):
    wheel = wheel_of(cpu_wheel)
    wheel.extractall(tmp_path)
    (name,) = modules_in(wheel)
    if shutil.which("readelf"):
        needed = subprocess.run(
            ["readelf", "-d", str(tmp_path / name)], capture_output=True, text=True, check=True
        ).stdout
        assert not re.search(r"NEEDED.*(torch|cudart|c10)", needed)
    code = "from fuse_index.ops import native_status as s; print(s().native, s().reason)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("True no CUDA kernels: left out on request")


def test_without_a_compiler_auto_gives_a_pure_wheel_with_the_reason(tree, tmp_path):
    environment = {**without_tools(tmp_path), "FUSE_INDEX_CUDA": "auto"}
    tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    for folder in ("lib", f"lib.{tag}"):  # what an earlier build may have left
        stale = tree / "build" / folder / "fuse_index" / "ops"
        stale.mkdir(parents=True, exist_ok=True)
        (stale / "_C.stale.so").write_bytes(b"stale")
    done = build(tree, "wheel", tmp_path / "out", **environment)
    assert done.returncode == 0, done.stderr
    wheel = wheel_of(tmp_path / "out")
    assert wheel.filename.endswith("py3-none-any.whl")
    assert modules_in(wheel) == []
    assert "missing does not exist; install one with C++17" in str(info_of(wheel)["reason"])
    wheel.extractall(tmp_path / "site")
    code = (
        "import torch; from fuse_index.ops import native_status as s, t_product;"
        "x = torch.ones(2, 1, 1); print(t_product(x, x).flatten().tolist(), s().reason)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith("[2.0, 2.0] no native code: CXX=")


def test_without_a_compiler_one_fails_and_says_why(tree, tmp_path):
    environment = {**without_tools(tmp_path), "FUSE_INDEX_CUDA": "1"}
    done = build(tree, "wheel", tmp_path / "out", **environment)
    assert done.returncode != 0
    assert "FUSE_INDEX_CUDA=1, but the CUDA kernels cannot be built:" in done.stderr
    assert not list((tmp_path / "out").glob("*.whl"))


def test_an_unknown_choice_is_refused(tree, tmp_path):
    done = build(tree, "wheel", tmp_path / "out", FUSE_INDEX_CUDA="yes")
    assert done.returncode != 0
    assert "FUSE_INDEX_CUDA='yes'; expected auto, 0 or 1" in done.stderr


@pytest.mark.skipif(
    not (shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()),
    reason="no CUDA toolkit",
)
def test_cuda_compiles_in_strict_mode_and_links_its_runtime_statically(tree, tmp_path):
    environment = {
        "FUSE_INDEX_CUDA": "1",
        "FUSE_INDEX_CUDA_ARCHS": "90-real",
        "FUSE_INDEX_STRICT": "1",
    }
    done = build(tree, "wheel", tmp_path / "out", **environment)
    assert done.returncode == 0, done.stdout[-3000:]
    wheel = wheel_of(tmp_path / "out")
    assert info_of(wheel)["cuda"] is True
    wheel.extractall(tmp_path)
    (name,) = modules_in(wheel)
    if shutil.which("readelf"):
        needed = subprocess.run(
            ["readelf", "-d", str(tmp_path / name)], capture_output=True, text=True, check=True
        ).stdout
        assert not re.search(r"NEEDED.*(torch|cudart|c10|libcuda)", needed)
    code = "from fuse_index.ops import native_status as s; print(s().native, s().archs)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "True 90-real"
