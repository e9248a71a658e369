"""Images, texts and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
import torch

from fuse_index.errors import ImageError, ModelError, OptionError
from fuse_index.models import Model, load_model
from fuse_index.models.clip import ClipModel
from fuse_index.objectives import ClassifierLabel, ImageSimilarity, TextSimilarity
from tests.models.test_clip import image

Load = Callable[..., Model]
TEXTS = ["a brown dog", "two children play with a boat", "grass"]


def rows_of(model: Model) -> list[list[int]]:
    return [model.words.encode_text(text) for text in TEXTS]


def unit(values: torch.Tensor) -> torch.Tensor:
    return values / values.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_images_by_their_cosine(loaded: Load, tmp_path: Path, family: str) -> None:
    model = loaded(family)
    assert isinstance(model, ClipModel)
    images = [image(0), image(1)]
    images[1].save(tmp_path / "b.png")
    texts = [f"the old {text}!" for text in TEXTS]
    features = model.encode_texts(texts).features
    assert features is not None
    cosines = unit(features) @ unit(model.encode_image(images)).T
    contents = rows_of(model)
    objective = ImageSimilarity(
        images=(images[0], tmp_path / "b.png"), prefix="the old ", suffix="!"
    )
    got = objective.prepare(model).score(contents)
    torch.testing.assert_close(got, 1 - cosines.mean(dim=1), atol=1e-5, rtol=1e-5)
    one = ImageSimilarity(images=images[0], prefix="the old ", suffix="!").prepare(model)
    torch.testing.assert_close(one.score(contents), 1 - cosines[:, 0], atol=1e-5, rtol=1e-5)


def test_open_clip_images(open_clip_dir: Path) -> None:
    model = load_model(f"open_clip:{open_clip_dir}", device="cpu")
    got = ImageSimilarity(images=image(0)).prepare(model).score(rows_of(model))
    assert got.shape == (3,)
    assert len(set(got.tolist())) == 3


@pytest.mark.parametrize(("family", "kind"), [("bert", "encoder"), ("clip", None)])
def test_texts_by_their_cosine(loaded: Load, family: str, kind: str | None) -> None:
    model = loaded(family, kind)
    targets = ["the quick fox", "a red ball"]
    features, others = (model.encode_texts(t, normalize=True).features for t in (TEXTS, targets))
    assert features is not None
    assert others is not None
    cosines = features @ others.T
    got = TextSimilarity(texts=tuple(targets)).prepare(model).score(rows_of(model))
    torch.testing.assert_close(got, 1 - cosines.mean(dim=1), atol=1e-5, rtol=1e-5)
    same = TextSimilarity(texts=TEXTS[1]).prepare(model).score(rows_of(model))
    assert float(same[1]) == pytest.approx(0, abs=1e-5)
    assert same[0] > 1e-3


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_label_ranks_every_candidate_on_its_own(loaded: Load, family: str) -> None:
    model = loaded(family)
    rows = rows_of(model)
    logits = model.encode_texts(TEXTS).logits
    assert logits is not None
    for label, index in [("neutral", 1), (2, 2)]:
        loss = ClassifierLabel(label=label).prepare(model)
        expected = -logits.log_softmax(-1)[:, index]
        torch.testing.assert_close(loss.score(rows), expected, atol=1e-5, rtol=1e-5)
        alone = torch.cat([loss.score([row]) for row in rows])
        torch.testing.assert_close(loss.score(rows), alone, atol=1e-5, rtol=1e-5)


def test_gradient_of_one_row_does_not_depend_on_the_others(loaded: Load) -> None:
    model = loaded("bert")
    loss = ClassifierLabel(label="positive").prepare(model)
    grads = []
    for rows in (rows_of(model), rows_of(model)[:1]):
        batch = loss.batch(rows)
        embeds = model.embed(batch.ids).requires_grad_()
        (grad,) = torch.autograd.grad(loss(embeds, batch).sum(), embeds)
        grads.append(grad[0][batch.mask[0]])
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-4)


def test_bad_input(loaded: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no label 'joy'; expected one of 'negative'"):
        ClassifierLabel(label="joy").prepare(loaded("bert"))
    with pytest.raises(ModelError, match=r"kind 'causal' for objective 'label'; expected kind"):
        ClassifierLabel(label="joy").prepare(loaded("gpt2"))
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(ImageError, match="cannot be read as an image"):
        ImageSimilarity(images=tmp_path / "x.png").prepare(loaded("clip"))
    with pytest.raises(OptionError, match="no images"):
        ImageSimilarity(images=())
    with pytest.raises(OptionError, match="at least one, none empty"):
        TextSimilarity(texts=("a", ""))


def test_images_may_be_paths_or_opened(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert ImageSimilarity(images=str(tmp_path / "a.png")).images == (str(tmp_path / "a.png"),)
    assert ImageSimilarity(images=[tmp_path / "a.png"]).images == (tmp_path / "a.png",)


def test_real_classifier_and_encoder(minilm_dir: Path) -> None:
    classifier = load_model(str(minilm_dir), device="cpu")
    encoder = load_model(str(minilm_dir), kind="encoder", device="cpu")
    rows = [classifier.words.encode_text(t) for t in ("a wonderful film", "a dull, bad film")]
    good, bad = ClassifierLabel(label="positive").prepare(classifier).score(rows).tolist()
    assert good < 0.1 < 1 < bad
    near, far = TextSimilarity(texts="a terrible movie").prepare(encoder).score(rows).flip(0)
    assert near < far
