"""Which weights count, and their size, without loading them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fuse_index import load_model
from fuse_index.demo import DemoModel, model_name
from fuse_index.errors import ModelError
from fuse_index.models.checkpoint import TransformersCheckpoint
from fuse_index.models.embeddings import load_embeddings
from fuse_index.models.naming import parse_model_name
from fuse_index.models.weights import INDEX, SINGLE, has_adapter, weight_map, weights_bytes
from tests.models.factory import build_model, tokenizer_of

SHARDS = {"max_shard_size": "40KB"}


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


@cache
def weights(seed: int) -> Any:
    """A tiny GPT-2 whose values tell which of several files was read."""
    model = build_model("gpt2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * seed)
    return model


def save(folder: Path, seed: int, **options: Any) -> None:
    weights(seed).save_pretrained(folder, **options)


def put(folder: Path, name: str, content: str | bytes) -> None:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def keep(folder: Path, *names: str) -> dict[str, bytes]:
    """Files that a later save_pretrained() would remove."""
    return {path.name: path.read_bytes() for name in names for path in folder.glob(name)}


def old_index_and_newer_single(folder: Path) -> None:
    save(folder, 0, **SHARDS)
    old = keep(folder, "model*")
    save(folder, 1)
    for name, content in old.items():
        put(folder, name, content)


def old_single_and_newer_index(folder: Path) -> None:
    save(folder, 1)
    old = keep(folder, SINGLE)
    save(folder, 0, **SHARDS)
    put(folder, SINGLE, old[SINGLE])


def old_index_without_its_shards(folder: Path) -> None:
    save(folder, 0, **SHARDS)
    old = keep(folder, INDEX)
    save(folder, 1)
    put(folder, INDEX, old[INDEX])


def with_a_variant(folder: Path, **options: Any) -> None:
    save(folder, 0, variant="fp16", **options)
    old = keep(folder, "model*")
    save(folder, 1, **options)
    for name, content in old.items():
        put(folder, name, content)


def with_a_pickle(folder: Path, **options: Any) -> None:
    save(folder, 1, **options)
    put(folder, "pytorch_model.bin", b"never read")


def named_in_the_configuration(folder: Path, file: str, **options: Any) -> None:
    save(folder, 1, **options)
    moved = keep(folder, "model*")
    save(folder, 0)
    for name, content in moved.items():
        put(folder, name.replace(SINGLE, "chosen.safetensors"), content)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    put(folder, "config.json", json.dumps({**config, "transformers_weights": file}))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "single": lambda folder: save(folder, 1),
    "index": lambda folder: save(folder, 1, **SHARDS),
    "old index, newer single": old_index_and_newer_single,
    "old index without shards, newer single": old_index_without_its_shards,
    "old single, newer index": old_single_and_newer_index,
    "single and variant": with_a_variant,
    "index and variant": lambda folder: with_a_variant(folder, **SHARDS),
    "single and pickle": with_a_pickle,
    "index and pickle": lambda folder: with_a_pickle(folder, **SHARDS),
    "single by name": lambda folder: named_in_the_configuration(folder, "chosen.safetensors"),
    "index by name": lambda folder: named_in_the_configuration(
        folder, "chosen.safetensors.index.json", **SHARDS
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_weights_that_count_are_those_of_transformers(layout, tmp_path):
    """Bundles are built from the table alone: both ways must see the same model."""
    from transformers import AutoModelForCausalLM

    tokenizer_of("gpt2").save_pretrained(tmp_path)
    LAYOUTS[layout](tmp_path)
    own = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    wanted = own.get_input_embeddings().weight.detach()
    assert torch.equal(wanted, weights(1).get_input_embeddings().weight.detach())
    alone, whole = load_embeddings(str(tmp_path)), load_model(str(tmp_path), device="cpu")
    assert torch.equal(alone.table, wanted)
    assert torch.equal(whole.table(), wanted)
    assert alone.identity == whole.identity()
    stored = sum(tensor.nbytes for tensor in own.state_dict().values())
    assert 0.5 * stored < (weights_bytes(str(tmp_path)) or 0) < 1.5 * stored


def only_a_variant(folder: Path) -> None:
    save(folder, 1, variant="fp16")


def only_a_pickle(folder: Path) -> None:
    save(folder, 1)
    (folder / SINGLE).rename(folder / "pytorch_model.bin")


def a_shard_is_missing(folder: Path) -> None:
    save(folder, 1, **SHARDS)
    sorted(folder.glob("model-*"))[1].unlink()


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "variant": (only_a_variant, r"no model\.safetensors in the directory, only model\.fp16\.safet"),
    "pickle": (only_a_pickle, r"its weights are pickled \(pytorch_model\.bin\)"),
    "shard": (
        a_shard_is_missing,
        r"index\.json names model-00002-of-\d+\.safetensors, which is not",
    ),
    "name": (
        lambda folder: named_in_the_configuration(folder, "no.safetensors"),
        r"config\.json says that the weights are in no\.safetensors, which is not in it",
    ),
    "outside": (
        lambda folder: named_in_the_configuration(folder, "../model.safetensors"),
        r"the weights are in \.\./model\.safetensors, which is not in it",
    ),
    "pickle by name": (
        lambda folder: named_in_the_configuration(folder, "adapter_model.bin"),
        r"its weights are pickled \(adapter_model\.bin\)",
    ),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_weights_that_cannot_be_read_are_refused_both_ways(layout, tmp_path):
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    make, message = REFUSED[layout]
    make(tmp_path)
    for load in (load_embeddings, load_model):
        with pytest.raises(ModelError, match=message):
            load(str(tmp_path))


def test_an_index_without_a_map_is_refused(tmp_path):
    put(tmp_path, "config.json", "{}")
    put(tmp_path, INDEX, json.dumps({"weight_map": ["a"]}))
    with pytest.raises(ModelError, match=r"index\.json has no weight_map of tensors and files"):
        weight_map(TransformersCheckpoint(parse_model_name(str(tmp_path))))


def test_an_adapter_counts_where_transformers_adds_it(tmp_path, monkeypatch):
    checkpoint = TransformersCheckpoint(parse_model_name(str(tmp_path)))
    put(tmp_path, "adapter_config.json", "{}")
    find = "fuse_index.models.weights.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None)
    assert not has_adapter(checkpoint)
    monkeypatch.setattr(find, lambda name: object())
    with pytest.raises(ModelError, match=r"its weights are pickled \(adapter_model\.bin\)"):
        has_adapter(checkpoint)
    put(tmp_path, "adapter_model.safetensors", b"")
    assert has_adapter(checkpoint)
