"""The loader never breaks the import and keeps the reason for what is missing."""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace

import pytest

from fuse_index.ops import _native

NAME = "fuse_index.ops._C"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Forget what was loaded, before and after."""
    caches = (_native._load, _native.status, _native.cuda_module)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.delenv("FUSE_INDEX_NATIVE", raising=False)
    yield
    for cache in caches:
        cache.cache_clear()


def extension(version="0.1.0", *, cuda=True, versions=(13000, 13000)):
    """A stand-in for the compiled module."""
    return SimpleNamespace(
        version=version, has_cuda=cuda, cuda_archs="90", cuda_versions=lambda: versions
    )


def install(monkeypatch, module, version="0.1.0"):
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setattr(_native, "_expected_version", lambda: version)


@pytest.mark.smoke
def test_everything_there(monkeypatch):
    install(monkeypatch, extension())
    assert _native.status() == _native.NativeStatus(True, True, "90", "13.0", "13.0", "")
    assert _native.cuda_module() is _native.module()
    assert _native.module() is not None


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ((13000, 0), "no driver on this machine"),
        ((13000, 12080), "built with CUDA 13.0 but the driver supports 12.8; update the driver"),
    ],
)
def test_drivers_that_cannot_run_the_kernels(monkeypatch, caplog, versions, reason):
    install(monkeypatch, extension(versions=versions))
    assert _native.status().native
    assert not _native.status().cuda
    assert reason in _native.status().reason
    with caplog.at_level(logging.WARNING):
        assert _native.cuda_module() is None
        assert _native.cuda_module() is None
    assert len(caplog.records) == 1  # said once
    assert reason in caplog.text


def test_an_extension_of_another_version_is_not_used(monkeypatch):
    install(monkeypatch, extension("0.0.9"))
    assert _native.module() is None
    assert "of version 0.0.9, the package of 0.1.0" in _native.status().reason


def test_a_missing_extension_gives_the_recorded_reason(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, NAME, None)
    info = tmp_path / "info.json"
    monkeypatch.setattr(_native, "_INFO", info)
    assert "not built; pip install ." in _native._build_reason()
    info.write_text(json.dumps({"reason": "no native code: no C++ compiler on the PATH"}))
    assert _native.status().reason == "no native code: no C++ compiler on the PATH"
    assert _native.module() is None
    info.write_text("{")
    assert "cannot be read" in _native._build_reason()


def test_it_can_be_switched_off(monkeypatch):
    install(monkeypatch, extension())
    monkeypatch.setenv("FUSE_INDEX_NATIVE", "0")
    assert _native.status().reason == "FUSE_INDEX_NATIVE=0 is set"


def test_a_module_without_cuda_says_why(monkeypatch, tmp_path):
    install(monkeypatch, extension(cuda=False))
    info = tmp_path / "info.json"
    info.write_text(json.dumps({"reason": "no CUDA kernels: nvcc not found"}))
    monkeypatch.setattr(_native, "_INFO", info)
    assert _native.status() == _native.NativeStatus(
        True, False, "", "", "", "no CUDA kernels: nvcc not found"
    )
