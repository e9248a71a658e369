"""Shared files whose checksums fit, and which are wrong all the same.

Situations that people met in other projects, or that a reader of untrusted files meets:

- Values overflow where they are converted to a narrower dtype, and are infinite from then on:
  https://github.com/google-ai-edge/mediapipe-samples/issues/408
- Adapters of several dtypes are loaded and fail where they meet:
  https://github.com/huggingface/diffusers/issues/3748
- JSON that is nested deeply ends in a RecursionError:
  https://github.com/NVIDIA-Merlin/Transformers4Rec/pull/822
- FAISS takes sizes and ids from a file as they stand there:
  https://github.com/facebookresearch/faiss/issues/5400
- A list of very many entries costs long before anything is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fuse_index.adapter import Adapter
from fuse_index.bundle import read_bundle, read_manifest, verify_bundle, write_bundle
from fuse_index.errors import BundleError
from tests.bundle import mutations, sample
from tests.bundle.test_hostile import replaced
from tests.index.test_hostile import Hostile


@pytest.fixture
def folder(tmp_path) -> Path:
    write_bundle(tmp_path / "bundle", sample.contents())
    return tmp_path / "bundle"


def adapters(value: float, fallback: str = "F64") -> bytes:
    dtypes = {"1x1": "F64", "2x1": "F64", "fallback": fallback}
    kinds = {"F64": "<f8", "F32": "<f4"}
    arrays = {
        f"adapter.{name}": np.full((2 if name == "2x1" else 1, 3, 2), value, kinds[dtype])
        for name, dtype in dtypes.items()
    }
    return mutations.join_arrays(arrays, {f"adapter.{key}": item for key, item in dtypes.items()})


@pytest.mark.parametrize("act", [verify_bundle, read_bundle, Adapter.from_pretrained])
def test_adapters_that_overflow_float32_are_refused(folder, act):
    refused = pytest.raises(BundleError, match=r"'adapter\.1x1' holds values beyond 1e\+30")
    with replaced(folder, "adapter.safetensors", adapters(1e39)), refused:
        act(folder)
    with replaced(folder, "adapter.safetensors", adapters(0.5)):
        act(folder)


@pytest.mark.parametrize("act", [verify_bundle, read_bundle, Adapter.from_pretrained])
def test_adapters_of_several_dtypes_are_refused_by_verifying_too(folder, act):
    refused = pytest.raises(BundleError, match="tensors of dtypes F32, F64; expected one dtype")
    with replaced(folder, "adapter.safetensors", adapters(0.5, "F32")), refused:
        act(folder)


@pytest.mark.parametrize("depth", [65, 900, 100_000])
def test_a_manifest_nested_deeply_is_refused_in_a_line(folder, depth):
    text = (folder / "manifest.json").read_text()
    nested = '"seed": ' + "[" * depth + "]" * depth
    (folder / "manifest.json").write_text(text.replace('"seed": 0', nested))
    with pytest.raises(BundleError, match=r"is not valid JSON \(nested too deeply: "):
        read_manifest(folder)


def test_a_manifest_of_very_many_groups_is_refused_before_any_is_looked_at(folder, monkeypatch):
    """None of 20,000 groups is parsed, and of 250,000 not even an object is made."""
    monkeypatch.setattr("fuse_index.bundle.layout.parse_group", lambda _: pytest.fail("parsed"))
    for count, message in (
        (20_000, "groups has 20000 items, more than 16384"),
        (250_000, "values"),
    ):
        groups = [{"name": f"{i % 500 + 1}x{i // 500 + 1}", "words": 1} for i in range(count)]
        sample.edit_manifest(folder, lambda value, groups=groups: value.update(groups=groups))
        with pytest.raises(BundleError, match=message):
            read_manifest(folder)


def test_ids_of_a_faiss_file_are_those_of_the_words(tmp_path):
    hostile = Hostile(tmp_path / "bundle")
    data = bytearray((hostile.folder / "index" / "plain.faiss").read_bytes())
    at = data.index(np.arange(4, dtype="<i8").tobytes())
    for value in (1 << 40, 301, -2, 1):
        data[at : at + 8] = np.array([value], "<i8").tobytes()
        refused = pytest.raises(BundleError, match=r"plain\.json: faiss .* cannot read it \(ids ")
        with replaced(hostile.folder, "index/plain.faiss", bytes(data)), refused:
            hostile.read("plain")
