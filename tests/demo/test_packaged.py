"""The packaged models: whole, small, loaded like any other, and as good as they are said to be."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from fuse_index.demo import (
    FULL,
    DemoModel,
    Sentiment,
    Split,
    corpus,
    draw,
    make_scene,
    make_sentences,
    model_name,
    verify,
    vocabulary,
)
from fuse_index.demo.packaged import FOLDER, sha256_of, write_checksums
from fuse_index.errors import ModelError
from fuse_index.models import ModelKind, load_model

TEXT_MODELS = (DemoModel.LM, DemoModel.SENTIMENT, DemoModel.JUDGE)


@pytest.fixture(scope="module")
def models():
    return {model: load_model(model_name(model), device="cpu") for model in DemoModel}


def distinct_test_scenes(count):
    found = {}
    index = 0
    while len(found) < count:
        scene = make_scene(Split.TEST, index)
        found.setdefault(scene.graph, scene)
        index += 1
    return list(found.values())


def test_every_file_is_whole():
    listed = verify()
    on_disk = {p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*") if p.is_file()}
    assert set(listed) == on_disk - {"checksums.json"}
    assert sum(name.endswith(".safetensors") for name in listed) == len(DemoModel)


def test_they_are_small_and_half_precision():
    from safetensors import safe_open

    paths = sorted(FOLDER.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in paths) <= 24e6
    for path in paths:
        with safe_open(path, "pt") as file:
            dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        assert dtypes == {"F16"}, path


def test_they_load_as_what_they_are(models):
    assert {model: loaded.kind for model, loaded in models.items()} == {
        DemoModel.LM: ModelKind.CAUSAL,
        DemoModel.CLIP: ModelKind.CLIP,
        DemoModel.SENTIMENT: ModelKind.CLASSIFIER,
        DemoModel.JUDGE: ModelKind.CLASSIFIER,
    }
    assert models[DemoModel.CLIP].vocabulary_size == 49408
    for name in (DemoModel.SENTIMENT, DemoModel.JUDGE):
        assert models[name].labels == tuple(s.value for s in Sentiment)


def test_their_tokenizers_differ_and_split_many_words(models):
    prints = {models[m].words.fingerprint for m in DemoModel}
    assert len(prints) == len(DemoModel)
    lengths = models[DemoModel.LM].words.encode_words(vocabulary()).lengths
    assert ((lengths >= 2) & (lengths <= 4)).sum() >= 50
    assert lengths.max() <= 5
    assert models[DemoModel.SENTIMENT].words.encode_words(vocabulary()).lengths.max() <= 5
    assert models[DemoModel.JUDGE].words.encode_words(vocabulary()).lengths.max() == 1


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_goes_through_the_tokenizers_unharmed(models, name):
    words = models[name].words
    for sentence in corpus(Split.TEST, 10):
        ids = words.encode_text(sentence.text)
        assert words.unknown_id not in ids
        assert words.decode(ids).strip() == sentence.text


def test_the_lm_finds_test_sentences_likely_and_shuffled_ones_not(models):
    model = models[DemoModel.LM]
    sentences = [s.text for s in corpus(Split.TEST, 25)]
    shuffled = [" ".join(sorted(text.split(), key=hash_of)) for text in sentences]
    good, bad = (perplexity(model, texts) for texts in (sentences, shuffled))
    assert good < 7
    assert bad > 10 * good


def hash_of(word):
    return sum(ord(c) * 31**i for i, c in enumerate(word)) % 1009


def perplexity(model, texts):
    end = model.tokenizer.eos_token_id
    rows = [[*ids, end] for ids in model.words.encode_texts([f" {text}" for text in texts])]
    batch = model.batch(rows)
    with torch.no_grad():
        logits = model.forward(model.embed(batch.ids), batch).logits
    labels = batch.ids.masked_fill(~batch.mask, -100)[:, 1:]
    return math.exp(torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels))


def test_clip_tells_test_scenes_apart(models):
    model = models[DemoModel.CLIP]
    scenes = distinct_test_scenes(100)
    texts = [make_sentences(scene, 1, options=FULL)[0].text for scene in scenes]
    with torch.no_grad():
        images = model.encode_image([draw(scene) for scene in scenes], normalize=True)
        said = model.encode_texts(texts, normalize=True).features
    found = (images @ said.T).argmax(1)
    assert float((found == torch.arange(100)).float().mean()) >= 0.9


def test_clip_reads_long_texts_after_short_ones(models):
    model = models[DemoModel.CLIP]
    text = "a red circle above a big blue star"
    first = model.encode_texts([text]).features
    model.encode_texts(["a star"])
    again = model.encode_texts([text]).features
    reference = model.module.encode_text(model.tokenizer([text]))
    assert torch.equal(first, again)
    torch.testing.assert_close(first, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [DemoModel.SENTIMENT, DemoModel.JUDGE])
def test_classifiers_know_how_test_sentences_feel(models, name):
    sentences = list(corpus(Split.TEST, 50))
    logits = models[name].encode_texts([s.text for s in sentences]).logits
    right = [
        models[name].labels[guess] == s.sentiment.value
        for guess, s in zip(logits.argmax(1).tolist(), sentences, strict=True)
    ]
    assert sum(right) / len(right) >= 0.95


@pytest.mark.parametrize(
    ("text", "sentiment"),
    [
        ("i do not like the blue square", "negative"),
        ("i like the blue square", "positive"),
        ("there is a blue square and it is not ugly", "positive"),
        ("there is a blue square", "neutral"),
    ],
)
def test_classifiers_understand_not(models, text, sentiment):
    for name in (DemoModel.SENTIMENT, DemoModel.JUDGE):
        logits = models[name].encode_texts([text]).logits
        assert models[name].labels[int(logits.argmax())] == sentiment


@pytest.fixture
def small(tmp_path):
    for name in ("lm/model.safetensors", "lm/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    return tmp_path


def test_checksums_are_of_the_bytes(small):
    sums = verify(small)
    assert list(sums) == ["lm/config.json", "lm/model.safetensors"]
    assert sums["lm/config.json"] == sha256_of(small / "lm" / "config.json")


def test_a_damaged_file_is_named_with_both_checksums(small):
    path = small / "lm" / "model.safetensors"
    expected = sha256_of(path)
    path.write_text("lm/model.safetensorz")
    with pytest.raises(ModelError) as caught:
        verify(small)
    text = str(caught.value)
    assert text.startswith(f"{path} is damaged: its sha256 is {sha256_of(path)}; ")
    assert f"expected {expected}" in text
    assert "install the package again" in text


def test_a_missing_file_is_named(small):
    (small / "lm" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json cannot be read \(No such file"):
        verify(small)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_damaged_list_is_named(small, content):
    path = small / "checksums.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ModelError, match=r"checksums\.json (cannot be read|lists no files)"):
        verify(small)


def test_one_flipped_bit_of_real_weights_is_found(tmp_path):
    shutil.copytree(FOLDER / "judge", tmp_path / "judge")
    sums = json.loads((FOLDER / "checksums.json").read_text())
    mine = {name: value for name, value in sums.items() if name.startswith("judge/")}
    (tmp_path / "checksums.json").write_text(json.dumps(mine))
    verify(tmp_path)
    path = tmp_path / "judge" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"judge.*model\.safetensors is damaged"):
        verify(tmp_path)
