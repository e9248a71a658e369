"""The two real models, against transformers itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fuse_index.models import ModelKind, load_embeddings, load_model
from fuse_index.models.causal import CausalModel
from fuse_index.models.encoder import ClassifierModel

PAIR = pytest.mark.parametrize("which", ["gpt2_dir", "minilm_dir"])


@PAIR
def test_table_alone_equals_the_model(which: str, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue(which))
    alone, whole = load_embeddings(folder), load_model(folder, device="cpu")
    assert torch.equal(alone.table, whole.table())
    assert alone.identity == whole.identity()
    assert alone.unused_rows == whole.unused_rows == 0
    assert alone.identity.revision == ""


def test_language_model(gpt2_dir: Path) -> None:
    import transformers

    model = load_model(str(gpt2_dir), device="cpu")
    assert isinstance(model, CausalModel)
    assert (model.kind, model.width, model.vocabulary_size) == (ModelKind.CAUSAL, 256, 50257)
    assert (model.positions, model.frame.head) == (256, ())
    texts = ["A brown dog runs over the grass", "Two people"]
    net = transformers.AutoModelForCausalLM.from_pretrained(gpt2_dir, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2_dir)
    got = model.encode_texts(texts).logits
    assert got is not None
    for row, text in enumerate(texts):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = net(input_ids=ids).logits[0]
        torch.testing.assert_close(got[row, : ids.shape[1]], expected, atol=1e-4, rtol=1e-5)
    batch = model.batch(
        model.words.encode_texts([" dog runs", " boat"]), prefix="A photo of a brown", suffix="."
    )
    cached = model.prefill(batch.shared[:-1])
    full = model.forward(model.embed(batch.ids), batch, logits_from=len(cached)).logits
    part = model.forward(model.embed(batch.ids), batch, prefix=cached).logits
    assert full is not None
    assert part is not None
    mask = batch.mask[:, len(cached) :]
    assert (full[mask] - part[mask]).abs().max() < 2e-5 * full.abs().max()


def test_classifier_and_its_encoder(minilm_dir: Path) -> None:
    import transformers

    model = load_model(str(minilm_dir), device="cpu")
    assert isinstance(model, ClassifierModel)
    assert model.labels == ("negative", "positive")
    texts = ["a wonderful, moving film", "a terrible and boring mess of a film that drags on"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_dir)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    auto = transformers.AutoModelForSequenceClassification
    net = auto.from_pretrained(minilm_dir, dtype=torch.float32)
    with torch.no_grad():
        expected = net(**inputs).logits
        states = net.bert(**inputs).last_hidden_state
    logits = model.encode_texts(texts).logits
    assert logits is not None
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert logits.argmax(dim=1).tolist() == [model.label_id("positive"), model.label_id("negative")]
    encoder = load_model(str(minilm_dir), kind="encoder", device="cpu")
    weights = inputs["attention_mask"][..., None].float()
    mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
    features = encoder.encode_texts(texts).features
    assert features is not None
    torch.testing.assert_close(features, mean, atol=1e-5, rtol=1e-5)


def test_similar_texts_have_similar_features(minilm_dir: Path) -> None:
    encoder = load_model(str(minilm_dir), kind=ModelKind.ENCODER, device="cpu")
    texts = ["two dogs run on the beach", "dogs running by the sea", "stock prices fell sharply"]
    unit = encoder.encode_texts(texts, normalize=True).features
    assert unit is not None
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.1
