"""The size of weights, without loading them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuse_index.demo import DemoModel, model_name
from fuse_index.errors import ModelError
from fuse_index.models.weights import weights_bytes


def test_one_file_is_its_size():
    folder = Path(model_name(DemoModel.LM))
    assert weights_bytes(str(folder)) == (folder / "model.safetensors").stat().st_size


def test_an_index_says_the_size_of_all_files(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 12_000_000_000}}), encoding="utf-8")
    assert weights_bytes(str(tmp_path)) == 12_000_000_000
    index.write_text(json.dumps({"weight_map": {}}), encoding="utf-8")
    assert weights_bytes(str(tmp_path)) is None


def test_files_of_other_names_are_added_up(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert weights_bytes(str(tmp_path)) is None
    for name, size in (("a.safetensors", 10), ("b.safetensors", 5), ("c.bin", 100)):
        (tmp_path / name).write_bytes(bytes(size))
    assert weights_bytes(str(tmp_path)) == 15


def test_open_clip_is_not_asked():
    assert weights_bytes(model_name(DemoModel.CLIP)) is None


def test_what_cannot_be_found_is_not_known():
    assert weights_bytes("no/such-model", local_files_only=True) is None


def test_an_index_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors.index.json").write_text("[", encoding="utf-8")
    with pytest.raises(ModelError, match=r"model.safetensors.index.json is not a JSON object"):
        weights_bytes(str(tmp_path))
