"""Models with tokenizers that have more than their table, or no Latin letters."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from fuse_index import load_model
from fuse_index.errors import ModelError
from fuse_index.models.boundaries import surround
from fuse_index.models.embeddings import load_embeddings
from fuse_index.models.frame import Frame
from fuse_index.models.kinds import ModelKind
from fuse_index.optimize import TokenFilter
from tests.models.factory import FAMILIES, byte_level, end_of_word, metaspace, wordpiece
from tests.words.families import KINDS, tokenizer_of

BUILDERS = {
    "gpt2": lambda: byte_level(None),
    "gemma3": lambda: metaspace("<s>"),
    "opt": lambda: byte_level("</s>"),
    "bert": wordpiece,
    "roberta": lambda: byte_level("<s>", "</s>"),
    "clip": end_of_word,
    "siglip": lambda: end_of_word(None),
}
families = pytest.mark.parametrize("family", BUILDERS)


def save(family: str, tokenizer: Any, rows: int, folder: Any) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        FAMILIES[family].build(rows, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@families
def test_special_tokens_beyond_the_table_are_never_used(family, tmp_path):
    tokenizer = BUILDERS[family]()
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>", "<more>"]})
    name = save(family, tokenizer, rows, tmp_path)
    model, alone = load_model(name, device="cpu"), load_embeddings(name)
    assert model.vocabulary_size == rows == len(alone.table)
    assert model.words.vocab_size == rows + 2
    assert model.identity() == alone.identity
    ids = model.words.encode_text("a dog <image_soft_token> runs <more>")
    assert max(ids) < rows
    output = model.encode_texts(["a dog <image_soft_token> runs", "a dog"])
    found = output.features if output.logits is None else output.logits
    assert torch.isfinite(found).all()
    if model.kind is ModelKind.CAUSAL:
        assert len(TokenFilter().allowed(model)) == rows


def test_text_with_a_special_token_beyond_the_table_is_refused(tmp_path):
    tokenizer = metaspace("<s>")
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    model = load_model(save("gemma3", tokenizer, rows, tmp_path), device="cpu")
    for before, after in (("see <image>", ""), ("see", " <image> and")):
        with pytest.raises(ModelError, match=r"the special token '<image>', for which the embedd"):
            surround(model, before, after, special_tokens=True)
        assert max(surround(model, before, after).after, default=0) < rows
    with pytest.raises(ModelError, match="the special token '<image>'"):
        surround(model, "see", special_tokens=True).content(" a <image> dog")


@families
def test_other_tokens_beyond_the_table_refuse_the_model(family, tmp_path):
    tokenizer = BUILDERS[family]()
    rows = len(tokenizer)
    tokenizer.add_tokens(["zebra"])
    name = save(family, tokenizer, rows, tmp_path)
    for load in (load_model, load_embeddings):
        with pytest.raises(ModelError, match=f"table has {rows} rows and the tokenizer {rows + 1}"):
            load(name)


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "bert"])
def test_a_pad_token_beyond_the_table_pads_with_another(family, tmp_path):
    """The pad token that people add to a causal model without resizing its table."""
    tokenizer = BUILDERS[family]()
    rows = len(tokenizer)
    plain = save(family, tokenizer, rows, tmp_path / "plain")
    shutil.copytree(plain, tmp_path / "padded")
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    tokenizer.save_pretrained(tmp_path / "padded")
    padded = load_model(str(tmp_path / "padded"), device="cpu")
    assert padded.frame.pad < rows
    texts = ["a dog", "a brown dog runs over the green grass"]
    here, there = (
        model.encode_texts(texts).logits for model in (padded, load_model(plain, device="cpu"))
    )
    mask = slice(None) if family == "bert" else (0, slice(0, 2))
    assert torch.allclose(here[mask], there[mask], atol=1e-5)


def test_a_frame_beyond_the_table_is_refused():
    assert Frame((1,), (2,), 9).within(5, "m") == Frame((1,), (2,), 2)
    assert Frame((1,), (), 9).within(5, "m").pad == 1
    assert Frame((), (), 9).within(5, "m").pad == 0
    assert Frame((1,), (2,), 4).within(5, "m") == Frame((1,), (2,), 4)
    for frame in (Frame((5,), (), 0), Frame((), (5,), 0), Frame((), (1,), 5, width=8)):
        with pytest.raises(ModelError, match="m: every text has the special token 5, and the emb"):
            frame.within(5, "m")


@pytest.mark.parametrize("script", ["cyrillic", "chinese", "hindi"])
@pytest.mark.parametrize("kind", KINDS)
def test_models_of_other_scripts_load(kind, script, tmp_path):
    tokenizer = tokenizer_of(kind, script)
    name = save("bert", tokenizer, len(tokenizer), tmp_path)
    model = load_model(name, device="cpu")
    assert model.words.unknown_id not in model.words.encode_text(model.words.probe_text)
    assert model.identity() == load_embeddings(name).identity
    assert len(model.layers) == 2


def test_a_causal_model_of_another_script_has_tokens_to_draw(tmp_path):
    tokenizer = tokenizer_of("metaspace-unknown", "cyrillic")
    model = load_model(save("llama", tokenizer, len(tokenizer), tmp_path), device="cpu")
    allowed = TokenFilter(allow_non_ascii=True, words_only=True).allowed(model)
    (first,) = model.words.encode_words(["по"]).to_lists()
    assert allowed[first[0]]
    with pytest.raises(Exception, match=r"allow other letters than ASCII \(allow_non_ascii\)"):
        TokenFilter(words_only=True).allowed(model)


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    """Transformers makes up a tokenizer of special tokens from the configuration alone."""
    tokenizer = wordpiece()
    name = save("bert", tokenizer, len(tokenizer), tmp_path)
    for path in tmp_path.glob("token*"):
        path.unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(ModelError, match="no tokenizer in it"):
        load_model(name)


ADDED = ("<think>", "</think>", "[INST]", "<|user|>", "{x}", "  ", "COVID-19", "zebra", "node.js")


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_added_markup_is_not_drawn_by_default(family, tmp_path):
    tokenizer = BUILDERS[family]()
    tokenizer.add_tokens(list(ADDED))
    model = load_model(save(family, tokenizer, len(tokenizer), tmp_path), device="cpu")
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ADDED]
    assert [ADDED[i] for i, id_ in enumerate(ids) if TokenFilter().allowed(model)[id_]] == [
        *("COVID-19", "zebra", "node.js")
    ]
    assert all(TokenFilter(allow_added=True).allowed(model)[ids])
