"""Models that cannot be used: one clear line each, from the loader and from the table reader."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fuse_index.errors import ModelError, OptionError
from fuse_index.models import Model, load_embeddings, load_model
from fuse_index.models.checkpoint import translate
from tests.models import factory

LOADERS = pytest.mark.parametrize("load", [load_model, load_embeddings])
Loader = Callable[[str], Any]


def refused(load: Loader, name: Path | str) -> str:
    with pytest.raises(ModelError) as error:
        load(str(name))
    text = str(error.value)
    assert "\n" not in text
    assert "; expected " in text
    return text


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_table(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    key = "transformer.wte.weight"
    tensors[key] = change(tensors[key].clone()).contiguous()
    save_file(tensors, path, {"format": "pt"})


@LOADERS
@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "no-such-model"])
def test_hub_id_that_does_not_exist(load: Loader, name: str) -> None:
    text = refused(load, name)
    assert text.startswith(f"{name}: no config")
    assert "in the local cache, and the Hub cannot be reached" in text
    assert "check the spelling and the network" in text


@LOADERS
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_no_tokenizer(load: Loader, tmp_path: Path, family: str) -> None:
    """Transformers would make an empty one up from the configuration."""
    for file in factory.save_model(family, tmp_path).glob("*token*"):
        file.unlink()
    assert "no tokenizer in it; expected tokenizer.json" in refused(load, tmp_path)


@LOADERS
def test_tokenizer_without_vocabulary(load: Loader, tmp_path: Path) -> None:
    (factory.save_model("bert", tmp_path) / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    # transformers 4 fails on it, transformers 5 makes one of special tokens alone
    assert "tokenizer" in refused(load, tmp_path)


@LOADERS
def test_no_weights_and_pickled_weights(load: Loader, tmp_path: Path) -> None:
    (factory.save_model("gpt2", tmp_path) / "model.safetensors").unlink()
    assert "no weights in it; expected a *.safetensors file" in refused(load, tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    text = refused(load, tmp_path)
    assert "pickled (pytorch_model.bin), and loading a pickle can run any code" in text
    assert "save_pretrained()" in text


@LOADERS
def test_no_configuration(load: Loader, tmp_path: Path) -> None:
    assert "no config.json in the directory" in refused(load, tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert f"name it 'open_clip:{tmp_path}'" in refused(load, tmp_path)
    assert "is not an open_clip configuration" in refused(load, f"open_clip:{tmp_path}")


@LOADERS
def test_rows_that_are_not_finite_are_named_by_token(load: Loader, tmp_path: Path) -> None:
    def spoil(table: torch.Tensor) -> torch.Tensor:
        table[300] = float("nan")
        table[7, 3] = float("inf")
        table[[100, 101, 102, 103, 104]] = float("-inf")
        return table

    edit_table(factory.save_model("gpt2", tmp_path), spoil)
    token = factory.tokenizer_of("gpt2").convert_ids_to_tokens(7)
    text = refused(load, tmp_path)
    assert f"the embeddings of {token!r} (id 7), " in text
    assert "(id 103) and 2 more hold NaN or infinity" in text


@LOADERS
def test_unused_rows_may_hold_anything_and_are_said(
    load: Loader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = len(factory.tokenizer_of("gpt2"))

    def widen(table: torch.Tensor) -> torch.Tensor:
        return torch.cat([table, torch.full((3, table.shape[1]), float("nan"))])

    edit_table(factory.save_model("gpt2", tmp_path), widen)
    edit_config(tmp_path, vocab_size=rows + 3)
    with caplog.at_level(logging.INFO, "fuse_index"):
        model = load(str(tmp_path))
    assert model.unused_rows == 3
    if isinstance(model, Model):
        logits = model.encode_texts(["a brown dog"]).logits
        assert logits is not None
        assert logits.shape[-1] == rows
        assert torch.isfinite(logits).all()
    assert f"3 of {rows + 3} embedding rows have no token and are left out" in caplog.text


@LOADERS
def test_fewer_rows_than_tokens(load: Loader, tmp_path: Path) -> None:
    edit_table(factory.save_model("gpt2", tmp_path), lambda table: table[:400])
    edit_config(tmp_path, vocab_size=400)
    tokens = len(factory.tokenizer_of("gpt2"))
    text = refused(load, tmp_path)
    assert f"the embedding table has 400 rows and the tokenizer {tokens} tokens" in text


def test_configuration_of_another_model(tmp_path: Path) -> None:
    edit_config(factory.save_model("gpt2", tmp_path), vocab_size=999)
    text = refused(load_model, tmp_path)
    assert "weight transformer.wte.weight has " in text
    assert "configuration and weights are of different models" in text


@LOADERS
def test_truncated_weights(load: Loader, tmp_path: Path) -> None:
    path = factory.save_model("gpt2", tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be" in refused(load, tmp_path)


@LOADERS
def test_damaged_configuration(load: Loader, tmp_path: Path) -> None:
    (factory.save_model("gpt2", tmp_path) / "config.json").write_text("{")
    assert "JSON" in refused(load, tmp_path)


@LOADERS
def test_unknown_architecture(load: Loader, tmp_path: Path) -> None:
    edit_config(factory.save_model("gpt2", tmp_path), model_type="frobnicate")
    assert "update transformers" in refused(load, tmp_path)


@LOADERS
def test_remote_code_is_never_run(load: Loader, tmp_path: Path) -> None:
    folder = factory.save_model("gpt2", tmp_path)
    edit_config(folder, model_type="frob", auto_map={"AutoConfig": "code.Config"})
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\n")
    assert "needs custom code, which is never run" in refused(load, folder)
    assert not (folder / "ran").exists()


@LOADERS
def test_no_input_embeddings(load: Loader, tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        image_size=32,
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    assert "no tokenizer in it" in refused(load, tmp_path)
    factory.tokenizer_of("bert").save_pretrained(tmp_path)
    assert "ViTModel has no table of input embeddings" in refused(load, tmp_path)


def test_encoder_decoder_model(tmp_path: Path) -> None:
    import transformers

    config = transformers.T5Config(d_model=32, d_ff=32, num_layers=1, num_heads=2, vocab_size=500)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    factory.tokenizer_of("llama").save_pretrained(tmp_path)
    assert "an encoder-decoder model (t5)" in refused(load_model, tmp_path)


def test_wrong_kinds(saved: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        load_model(str(saved("gpt2")), kind="banana")
    assert str(error.value) == (
        "model kind banana; expected one of causal, clip, classifier, encoder"
    )
    with pytest.raises(ModelError, match=r"as kind 'clip'.*say 'causal'"):
        load_model(str(saved("gpt2")), kind="clip")
    with pytest.raises(ModelError, match=r"as kind 'encoder'.*say 'clip'"):
        load_model(str(saved("clip")), kind="encoder")
    with pytest.raises(ModelError, match=r"as classifier it lacks the weights score.weight"):
        load_model(str(saved("gpt2")), kind="classifier")


def test_no_image_processor(tmp_path: Path) -> None:
    import PIL.Image

    from fuse_index.models.clip import ClipModel

    (factory.save_model("clip", tmp_path) / "preprocessor_config.json").unlink()
    model = load_model(str(tmp_path), device="cpu")
    assert isinstance(model, ClipModel)
    with pytest.raises(ModelError, match=r"no preprocessor_config.json in it"):
        model.encode_image(PIL.Image.new("RGB", (9, 9)))


def test_bos_of_a_tokenizer_that_has_none(saved: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(saved("gpt2"), tmp_path / "gpt2"))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "bos_token": None}))
    with pytest.raises(ModelError, match=r"bos=True; expected a tokenizer with a bos_token"):
        load_model(str(folder), device="cpu", bos=True)


@LOADERS
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ViT-B-33/openai", "has no architecture 'ViT-B-33'"),
        ("ViT-B-32/no-such-tag", "neither a pretrained tag nor a file"),
        ("ViT-B-32/laion2b_e16", "in the local cache, and the Hub cannot be reached"),
        ("hf-hub:no-such-owner/no-such-model", "in the local cache, and the Hub cannot"),
    ],
)
def test_open_clip_names(load: Loader, name: str, said: str) -> None:
    assert said in refused(load, f"open_clip:{name}")


@LOADERS
def test_open_clip_files(load: Loader, tmp_path: Path) -> None:
    assert "no open_clip_config.json in the directory" in refused(load, f"open_clip:{tmp_path}")
    torch.save({}, tmp_path / "w.pt")
    assert "pickled (w.pt)" in refused(load, f"open_clip:ViT-B-32/{tmp_path}/w.pt")
    config = {"model_cfg": factory.OPEN_CLIP_CONFIG}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert "pickled (w.pt)" in refused(load, f"open_clip:{tmp_path}")
    (tmp_path / "c.json").write_text("{}")
    assert "is not an open_clip configuration" in refused(load, f"open_clip:{tmp_path}/c.json/w")
    (tmp_path / "c.json").write_text("{")
    assert "is not JSON" in refused(load, f"open_clip:{tmp_path}/c.json/w")


def test_open_clip_weights_that_lack_a_tensor(open_clip_dir: Path, tmp_path: Path) -> None:
    tensors = load_file(open_clip_dir / "open_clip_model.safetensors")
    del tensors["positional_embedding"]
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    content = (open_clip_dir / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(content)
    assert 'Missing key(s) in state_dict: "positional_embedding"' in refused(
        load_model, f"open_clip:{tmp_path}"
    )


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError("404 Client Error. Repository Not Found for url"), "no such model or revision"),
        (OSError("Cannot access gated repo for url"), "accepted its terms"),
        (MemoryError("Unable to allocate"), "do not fit into memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "do not fit into memory"),
        (ValueError("first\nsecond"), "its weights cannot be loaded (ValueError: first second)"),
    ],
)
def test_errors_of_libraries_become_one_line(raised: Exception, said: str) -> None:
    text = str(translate(raised, "weights", "name"))
    assert text.startswith("name: ")
    assert said in text
    assert "\n" not in text
