"""Features of sentences: those of the prompts they make, kept between runs, searched exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.objectives import ImageSimilarity, TextSimilarity
from fuse_index.predict import sentences
from fuse_index.predict.sentences import SentenceSearch, sentence_features

TEXTS = ["a red star", "the small blue ring is above a green plus", "red", "star a red"]


@pytest.fixture
def loss(clip):
    return TextSimilarity(texts="a red star", prefix="there is").prepare(clip)


def test_they_are_those_of_the_prompts(loss):
    found = sentence_features(loss, TEXTS)
    contents = [loss.surroundings.encode(" " + text) for text in TEXTS]
    expected = loss.features(contents)
    assert found.dtype is torch.float16
    assert torch.allclose(found.float(), expected, atol=1e-3)
    assert torch.allclose(1 - expected @ loss.target, loss.score(contents), atol=1e-5)


def test_a_sentence_without_room_is_like_nothing(loss):
    assert loss.model.positions is not None
    found = sentence_features(loss, ["red " * loss.model.positions, "red"])
    assert not found[0].any()
    assert found[1].any()


def test_they_are_kept_by_what_they_depend_on(loss, clip, image, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path))
    monkeypatch.setattr(sentences, "KEPT_FROM", 1)
    monkeypatch.setattr(sentences, "_SHARD", 2)
    made = []
    compute = sentences._computed
    monkeypatch.setattr(
        sentences, "_computed", lambda *given: (made.append(given[1]), compute(*given))[1]
    )
    first = sentence_features(loss, TEXTS)
    assert torch.equal(sentence_features(loss, TEXTS), first)
    assert made == [TEXTS[:2], TEXTS[2:]]
    sentence_features(loss, [*TEXTS, "more"])  # a longer corpus computes what is new
    assert made[2:] == [["more"]]
    sentence_features(ImageSimilarity(images=image).prepare(clip), TEXTS[:2])  # without the prefix
    assert made[3:] == [TEXTS[:2]]
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert torch.equal(sentence_features(loss, TEXTS), first)


@pytest.mark.parametrize("start", [1 << 30, 1])
def test_the_nearest_are_exact(monkeypatch, start):
    monkeypatch.setattr(sentences, "FAISS_FROM", start)
    if start == 1:
        pytest.importorskip("faiss")
    torch.manual_seed(0)
    parts = [torch.nn.functional.normalize(torch.randn(500, d), dim=1).half() for d in (8, 16)]
    query = torch.randn(24)
    scores = torch.cat(parts, dim=1).double() @ query.double()
    found = SentenceSearch(parts).nearest(query, 40)
    assert np.array_equal(found, scores.argsort(descending=True)[:40].numpy())
