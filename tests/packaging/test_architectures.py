"""Which architectures ``setup.py`` compiles the CUDA kernels for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[2]
TOOLKIT = "sm_75\nsm_80\nsm_86\nsm_89\nsm_90\nsm_100\nsm_120\n"


@pytest.fixture
def recipe(monkeypatch):
    """The functions of ``setup.py``, without a build."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.delenv("FUSE_INDEX_CUDA_ARCHS", raising=False)
    spec = importlib.util.spec_from_file_location("recipe", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Put a toolkit, and a driver that lists GPUs, first on the path."""

    def tool(name: str, prints: str, code: int = 0) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}END\nexit {code}\n")
        path.chmod(0o755)
        return str(path)

    def make(toolkit: str = TOOLKIT, gpus: str | None = None, code: int = 0) -> str:
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        if gpus is not None:
            tool("nvidia-smi", gpus, code)
        return tool("nvcc", toolkit)

    return make


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ("9.0\n", "90-real"),
        ("9.0\n9.0\n", "90-real"),
        ("8.6\n9.0\n", "80-real;90-real"),
        ("8.9\n", "80-real"),
        ("10.3\n", "100-real"),
        ("12.1\n", "120-real"),
        ("11.0\n", "100-virtual"),
        ("7.5\n8.0\n", "80-real"),
    ],
)
def test_auto_compiles_for_the_gpus_that_are_here(recipe, machine, gpus, expected):
    assert recipe.architectures(machine(gpus=gpus), everywhere=False) == expected


def test_a_toolkit_older_than_the_gpu_gives_code_that_its_driver_compiles(recipe, machine):
    nvcc = machine("sm_80\nsm_86\n", gpus="9.0\n")
    assert recipe.architectures(nvcc, everywhere=False) == "80-virtual"


@pytest.mark.parametrize("driver", [None, ("", 0), ("No devices were found\n", 6)])
def test_without_a_gpu_auto_leaves_cuda_out_and_says_so(recipe, machine, monkeypatch, driver):
    nvcc = machine() if driver is None else machine(gpus=driver[0], code=driver[1])
    if driver is None:
        monkeypatch.setattr(recipe.shutil, "which", lambda _: None)
    with pytest.raises(recipe.BuildError, match="no GPU here to compile for") as raised:
        recipe.architectures(nvcc, everywhere=False)
    assert "FUSE_INDEX_CUDA=1 compiles for all" in str(raised.value)
    assert "FUSE_INDEX_CUDA_ARCHS=90 for one" in str(raised.value)


def test_a_gpu_that_is_too_old_is_named(recipe, machine):
    with pytest.raises(recipe.BuildError, match=r"have compute capability 7\.0, below 8\.0"):
        recipe.architectures(machine(gpus="7.0\n"), everywhere=False)


def test_a_wheel_is_for_every_architecture(recipe, machine):
    found = recipe.architectures(machine(gpus="9.0\n"), everywhere=True)
    assert found == "80-real;90-real;100-real;120-real;120-virtual"


def test_named_architectures_need_no_gpu(recipe, machine, monkeypatch):
    monkeypatch.setenv("FUSE_INDEX_CUDA_ARCHS", "80, 90")
    assert recipe.architectures(machine(), everywhere=False) == "80;90"
