"""CLIPScore: the formula by hand, features against open_clip's own pipeline."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fuse_index.demo import DemoModel, Split, draw, make_scene, make_sentences, model_name
from fuse_index.errors import ImageError, ModelError, OptionError, ShapeError
from fuse_index.evaluate import clipscore, score_clip
from fuse_index.models import load_model


@pytest.fixture(scope="module")
def clip():
    return load_model(model_name(DemoModel.CLIP), device="cpu")


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(Split.TEST, index) for index in range(5)]


def captions(scenes, seed: int) -> list[str]:
    return [make_sentences(scene, 1, seed=seed)[0].text for scene in scenes]


def test_the_formula_by_hand(clip, monkeypatch):
    """Unit vectors in the plane, at given angles."""

    def at(degrees: list[float]) -> torch.Tensor:
        angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    texts = iter([at([60, 0, 100]), at([90, 0, 30, 45, 90])])
    monkeypatch.setattr(clipscore, "_text_features", lambda *_: next(texts))
    monkeypatch.setattr(clipscore, "_image_features", lambda *_: at([0, 180, 100]))
    scores = score_clip(clip, ["i"] * 3, ["a", "b", "c"], [["x", "y"], ["z", "w"], ["v"]])
    # Captions to pictures: 60, 180 and 0 degrees; to the nearest references: 30, 30 and 10.
    assert scores["CLIPScore"].items == pytest.approx([2.5 * 0.5, 0.0, 2.5])
    nearest = [math.cos(math.radians(angle)) for angle in (30, 30, 10)]
    expected = [2 * a * b / (a + b) for a, b in zip((1.25, 0.0, 2.5), nearest, strict=True)]
    assert scores["RefCLIPScore"].items == pytest.approx(expected)
    assert scores["CLIPScore"].value == pytest.approx(3.75 / 3)


def test_features_are_those_of_open_clip(clip, scenes):
    import open_clip

    texts, pictures = captions(scenes, 0), [draw(scene) for scene in scenes]
    references = [[a, b] for a, b in zip(captions(scenes, 1), captions(scenes, 2), strict=True)]
    scores = score_clip(clip, pictures, texts, references, batch_size=2)
    net, tokenizer = clip.module, clip.tokenizer
    assert isinstance(tokenizer, open_clip.SimpleTokenizer)

    def encode(batch: list[str]) -> torch.Tensor:
        with torch.no_grad():
            return net.encode_text(tokenizer([f"A photo depicts {t}" for t in batch]), True)

    with torch.no_grad():
        seen = net.encode_image(torch.stack([clip._transform(p) for p in pictures]), True)
    own = encode(texts)
    cosine = (own * seen).sum(1).numpy()
    np.testing.assert_allclose(scores["CLIPScore"].items, 2.5 * cosine.clip(0), atol=1e-5)
    nearest = np.array([(encode(r) @ o).max() for r, o in zip(references, own, strict=True)])
    total = 2.5 * cosine.clip(0) + nearest
    harmonic = 2 * 2.5 * cosine.clip(0) * nearest / total
    np.testing.assert_allclose(scores["RefCLIPScore"].items, harmonic, atol=1e-5)


def test_true_captions_score_above_those_of_other_pictures(clip, scenes):
    pictures, texts = [draw(scene) for scene in scenes], captions(scenes, 0)
    right = score_clip(clip, pictures, texts, prompt="")
    wrong = score_clip(clip, pictures, texts[1:] + texts[:1], prompt="")
    assert set(right) == {"CLIPScore"}
    assert right["CLIPScore"].value > wrong["CLIPScore"].value + 0.2


def test_long_captions_are_cut_and_said(clip, scenes, caplog):
    long = "red circle " * 200
    cut = score_clip(clip, [draw(scenes[0])], [long])["CLIPScore"].value
    assert "1 texts are longer than" in caplog.text
    assert cut == score_clip(clip, [draw(scenes[0])], [long + "blue star"])["CLIPScore"].value


def test_paths_and_progress(clip, scenes, tmp_path):
    paths = []
    for index, scene in enumerate(scenes):
        paths.append(tmp_path / f"{index}.png")
        draw(scene).save(paths[-1])
    seen = []
    texts = captions(scenes, 0)
    found = score_clip(
        clip, paths, texts, batch_size=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    drawn = score_clip(clip, [draw(scene) for scene in scenes], texts)
    np.testing.assert_allclose(found["CLIPScore"].items, drawn["CLIPScore"].items, atol=1e-6)


def test_bad_input(clip, scenes, tmp_path):
    picture = draw(scenes[0])
    with pytest.raises(ShapeError, match="1, 2 pictures, captions and lists"):
        score_clip(clip, [picture], ["a", "b"])
    with pytest.raises(ShapeError, match="0, 0 pictures"):
        score_clip(clip, [], [])
    with pytest.raises(ShapeError, match="item 1 has no reference"):
        score_clip(clip, [picture, picture], ["a", "b"], [["x"], []])
    with pytest.raises(OptionError, match="batch_size=0"):
        score_clip(clip, [picture], ["a"], batch_size=0)
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"x\.png' cannot be read as an image"):
        score_clip(clip, [tmp_path / "x.png"], ["a"])
    judge = load_model(model_name(DemoModel.JUDGE), device="cpu")
    with pytest.raises(ModelError, match="a model of kind classifier; expected a CLIP"):
        score_clip(judge, [picture], ["a"])
