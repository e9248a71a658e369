"""Reading the table alone: from one file or several, by the cache of the Hub, or the long way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fuse_index.models import Model, load_embeddings, load_model
from fuse_index.models import embeddings as module
from tests.models import factory


@pytest.mark.parametrize("family", [f for f in factory.FAMILIES if f != "falcon-alibi"])
def test_only_the_table_is_read(
    saved: Callable[[str], Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every family the short way works, and no other tensor is touched."""
    import transformers

    read: list[str] = []
    original = module.read_tensor

    def spy(path: Path, key: str, name: str) -> torch.Tensor:
        read.append(key)
        return original(path, key, name)

    monkeypatch.setattr(module, "read_tensor", spy)
    if family == "gemma3" and transformers.__version__.startswith("4."):
        pytest.skip("before transformers 5 the scale of Gemma 3 is lost on the meta device")
    monkeypatch.setattr(module, "_load_whole", lambda *args: pytest.fail("loaded the whole model"))
    alone = load_embeddings(str(saved(family)))
    assert len(read) == 1
    assert alone.table.dtype == torch.float32
    assert alone.table.is_contiguous()


def test_sharded_checkpoint(tmp_path: Path, loaded: Callable[..., Model]) -> None:
    factory.build_model("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    factory.tokenizer_of("llama").save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    alone = load_embeddings(str(tmp_path))
    assert torch.equal(alone.table, loaded("llama").table())


def test_an_unlisted_architecture_is_asked_itself(tmp_path: Path) -> None:
    import transformers

    tokenizer = factory.tokenizer_of("qwen2")
    config = transformers.GPTNeoXJapaneseConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4
    )
    net = transformers.GPTNeoXJapaneseForCausalLM(config)
    net.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert config.model_type not in module._KEY_OF_TYPE
    assert torch.equal(load_embeddings(str(tmp_path)).table, net.get_input_embeddings().weight)


def test_the_whole_model_is_loaded_where_the_key_cannot_be_told(
    saved: Callable[[str], Path], loaded: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_only_key", lambda files, ending: None)
    alone = load_embeddings(str(saved("llama")))
    assert torch.equal(alone.table, loaded("llama").table())
    assert alone.identity == loaded("llama").identity()
    assert alone.unused_rows == loaded("llama").unused_rows


def test_half_precision_checkpoint_has_the_same_identity_both_ways(tmp_path: Path) -> None:
    factory.build_model("gpt2").half().save_pretrained(tmp_path)
    factory.tokenizer_of("gpt2").save_pretrained(tmp_path)
    alone = load_embeddings(str(tmp_path))
    whole = load_model(str(tmp_path), device="cpu")
    assert whole.dtype == torch.float32
    assert alone.identity == whole.identity()
    half = load_model(str(tmp_path), device="cpu", dtype=torch.float16)
    assert half.identity() == alone.identity


def test_identity_tells_models_apart(saved: Callable[[str], Path], tmp_path: Path) -> None:
    first = load_embeddings(str(saved("bert"))).identity
    tokenizer = factory.tokenizer_of("bert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        factory.FAMILIES["bert"].build(len(tokenizer), tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    second = load_embeddings(str(tmp_path)).identity
    assert first.tokenizer_hash == second.tokenizer_hash
    assert first.differences(second) == [
        "other embedding values (fine-tuned, or another checkpoint)"
    ]


def test_hub_id_from_the_local_cache_offline(
    saved: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A cache laid out as huggingface_hub does it; the revision is the commit."""
    import huggingface_hub.constants
    import transformers.utils.hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub"
    folder = cache / "models--owner--tiny"
    shutil.copytree(saved("gpt2"), folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    # Before version 5 transformers keeps a copy.
    monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(cache), raising=False)
    alone = load_embeddings("owner/tiny@main").identity
    whole = load_model("owner/tiny", device="cpu").identity()
    assert alone.revision == whole.revision == commit
    assert (alone.name, whole.name) == ("owner/tiny@main", "owner/tiny")
    assert alone.embedding_hash == whole.embedding_hash
    assert "Loading weights" not in capfd.readouterr().err
