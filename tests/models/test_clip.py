"""The towers of transformers and open_clip: where they pool, what they see, images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from fuse_index.errors import ImageError, ModelError, OptionError, ShapeError
from fuse_index.models import Model, load_embeddings, load_model
from fuse_index.models.clip import ClipModel
from tests.models import factory

TEXTS = ["a brown dog", "two children play with a wooden boat near the river"]
Load = Callable[..., Model]


def image(seed: int, size: tuple[int, int] = (40, 50)) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def features(model: Model, rows: list[list[int]]) -> torch.Tensor:
    batch = model.batch(rows)
    value = model.forward(model.embed(batch.ids), batch).features
    assert value is not None
    return value


def pooled(output: Any) -> torch.Tensor:
    """Features were a bare tensor before transformers 5."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def library_features(folder: Path, texts: list[str]) -> torch.Tensor:
    """open_clip's own pipeline on the same weights."""
    import open_clip
    from safetensors.torch import load_file

    net = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    net.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        return net.eval().encode_text(tokenizer(texts), normalize=False)


@pytest.mark.parametrize("family", factory.TOWERS)
def test_text_features_equal_the_library_pipeline(
    loaded: Load, saved: Callable[[str], Path], family: str
) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(saved(family))
    ids = tokenizer(TEXTS, padding="max_length", max_length=24, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = pooled(factory.build_model(family).get_text_features(input_ids=ids))
    got = loaded(family).encode_texts(TEXTS).features
    assert got is not None
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("legacy", [False, True])
def test_clip_pools_at_the_end_even_if_the_content_holds_the_end_token(
    tmp_path: Path, legacy: bool
) -> None:
    """Also with the old configuration whose eos_token_id is 2 and which takes the largest id."""
    folder = factory.save_model("clip", tmp_path)
    if legacy:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["eos_token_id"] = 2
        (folder / "config.json").write_text(json.dumps(config))
    model = load_model(str(folder), device="cpu")
    end = model.frame.tail[0]
    rows = [[270, 280, 290], [270, end, 290], [270, 2, 290], [270, end]]
    got = features(model, rows)
    net: Any = model.module
    for row, feature in zip(rows, got, strict=True):
        ids = torch.tensor([[*model.frame.head, *row, end]])
        with torch.no_grad():
            states = net.text_model(input_ids=ids).last_hidden_state[0, -1]
            expected = net.text_projection(states)
        torch.testing.assert_close(feature, expected, atol=1e-5, rtol=1e-5)


def test_siglip_sees_its_padding(loaded: Load) -> None:
    model = loaded("siglip")
    assert model.frame.width == 24
    batch = model.batch([[270, 280]])
    assert batch.ids.shape == (1, 24)
    assert batch.mask.sum() == 3


@pytest.mark.parametrize("family", factory.TOWERS)
def test_image_features_equal_the_library(
    loaded: Load, saved: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    import transformers

    model = loaded(family)
    assert isinstance(model, ClipModel)
    images = [image(0), image(1, (70, 33))]
    processor = transformers.AutoImageProcessor.from_pretrained(saved(family))
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        net = factory.build_model(family)
        expected = pooled(net.get_image_features(pixel_values=pixels))
    torch.testing.assert_close(model.encode_image(images), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode_image(pixels), expected, atol=1e-5, rtol=1e-5)
    images[0].save(tmp_path / "a.png")
    unit = model.encode_image(tmp_path / "a.png", normalize=True)
    torch.testing.assert_close(unit[0], expected[0] / expected[0].norm(), atol=1e-5, rtol=1e-5)
    assert model.logit_scale == pytest.approx(net.logit_scale.exp().item())


def test_bad_images(loaded: Load, tmp_path: Path) -> None:
    model = loaded("clip")
    assert isinstance(model, ClipModel)
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(ImageError, match=r"cannot be read as an image .*expected an image file"):
        model.encode_image(text)
    image(0).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    with pytest.raises(ImageError, match="cannot be read as an image"):
        model.encode_image(tmp_path / "cut.png")
    with pytest.raises(ImageError, match="does not exist"):
        model.encode_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="an image of type int"):
        model.encode_image([3])  # type: ignore[list-item]
    with pytest.raises(ImageError, match="0 images"):
        model.encode_image([])
    with pytest.raises(ShapeError, match="pixels of shape"):
        model.encode_image(torch.zeros(2, 2))


def test_open_clip_equals_the_library(open_clip_dir: Path) -> None:
    model = load_model(f"open_clip:{open_clip_dir}", device="cpu")
    assert isinstance(model, ClipModel)
    assert (model.frame.head, model.frame.tail, model.positions) == ((49406,), (49407,), 20)
    got = model.encode_texts(TEXTS).features
    assert got is not None
    torch.testing.assert_close(got, library_features(open_clip_dir, TEXTS), atol=1e-5, rtol=1e-5)
    short = model.encode_texts(TEXTS[:1]).features
    assert short is not None
    torch.testing.assert_close(short[0], got[0], atol=1e-5, rtol=1e-5)


def test_open_clip_gradient_and_end_token_in_content(open_clip_dir: Path) -> None:
    model = load_model(f"open_clip:{open_clip_dir}", device="cpu")
    batch = model.batch([[500, 49407, 501], [502]])
    embeds = model.embed(batch.ids).requires_grad_()
    value = model.forward(embeds, batch).features
    assert value is not None
    (grad,) = torch.autograd.grad(value.square().sum(), embeds)
    size = grad.norm(dim=-1)
    assert (size[batch.mask] > 0).all()
    assert (size[~batch.mask] == 0).all()


def test_open_clip_images_and_table(open_clip_dir: Path) -> None:
    name = f"open_clip:{open_clip_dir}"
    model = load_model(name, device="cpu")
    assert isinstance(model, ClipModel)
    pixels = torch.stack([torch.full((3, 32, 32), 0.0), torch.full((3, 32, 32), 1.0)])
    grey = PIL.Image.new("RGB", (32, 32), (127, 127, 127))
    white = PIL.Image.new("RGB", (32, 32), (255, 255, 255))
    got, expected = model.encode_image([grey, white]), model.encode_image(pixels)
    torch.testing.assert_close(got[1], expected[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[0], expected[0], atol=2e-2, rtol=2e-2)
    alone = load_embeddings(name)
    assert torch.equal(alone.table, model.table())
    assert alone.identity == model.identity()
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_open_clip_configuration_and_weights_files(open_clip_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(factory.OPEN_CLIP_CONFIG))
    name = f"open_clip:{config}/{open_clip_dir}/open_clip_model.safetensors"
    model, same = load_model(name, device="cpu"), load_model(f"open_clip:{open_clip_dir}")
    assert model.identity().embedding_hash == same.identity().embedding_hash
    first, second = model.encode_texts(TEXTS).features, same.encode_texts(TEXTS).features
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, second.cpu(), atol=1e-5, rtol=1e-5)


def test_open_clip_without_weights_is_refused_unless_meant(tmp_path: Path) -> None:
    config = tmp_path / "bare.json"
    config.write_text(json.dumps(factory.OPEN_CLIP_CONFIG))
    name = f"open_clip:{config}"
    with pytest.raises(ModelError, match="without weights, which would be random"):
        load_model(name)
    with pytest.raises(ModelError, match="without weights"):
        load_embeddings(name)
    with pytest.raises(ModelError, match=r"its tags are openai, laion400m_e31") as error:
        load_model("open_clip:ViT-B-32")
    assert "expected open_clip:ViT-B-32/PRETRAINED" in str(error.value)
    state = torch.random.get_rng_state()
    first, second = (load_model(name, device="cpu", allow_random=True) for _ in range(2))
    assert torch.equal(first.table(), second.table())
    assert torch.equal(torch.random.get_rng_state(), state)


SIGLIP_CONFIG = {
    **factory.OPEN_CLIP_CONFIG,
    "custom_text": True,
    "init_logit_bias": -10,
    "text_cfg": {
        **factory.OPEN_CLIP_CONFIG["text_cfg"],
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
    },
}
CUSTOM_CONFIG = {**factory.OPEN_CLIP_CONFIG, "custom_text": True}
COCA_CONFIG = {
    **factory.OPEN_CLIP_CONFIG,
    "custom_text": True,
    "vision_cfg": {
        **factory.OPEN_CLIP_CONFIG["vision_cfg"],
        "attentional_pool": True,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "text_cfg": {
        **factory.OPEN_CLIP_CONFIG["text_cfg"],
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 32,
        "heads": 4,
        "layers": 1,
        "attn_pooler_heads": 4,
    },
}


@pytest.mark.parametrize(
    ("config", "width"), [(SIGLIP_CONFIG, 20), (CUSTOM_CONFIG, None), (COCA_CONFIG, 20)]
)
def test_other_open_clip_towers(tmp_path: Path, config: dict[str, Any], width: int | None) -> None:
    folder = factory.save_open_clip(tmp_path, config)
    model = load_model(f"open_clip:{folder}", device="cpu")
    assert model.frame.width == width
    got = model.encode_texts(TEXTS).features
    assert got is not None
    torch.testing.assert_close(got, library_features(folder, TEXTS), atol=1e-5, rtol=1e-5)
    assert load_embeddings(f"open_clip:{folder}").identity == model.identity()


def test_open_clip_with_a_hugging_face_text_tower(tmp_path: Path) -> None:
    tower = tmp_path / "tower"
    factory.save_model("bert", tower)
    config = {
        "embed_dim": 16,
        "vision_cfg": factory.OPEN_CLIP_CONFIG["vision_cfg"],
        "text_cfg": {
            "hf_model_name": str(tower),
            "hf_tokenizer_name": str(tower),
            "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler",
            "context_length": 20,
        },
    }
    folder = factory.save_open_clip(tmp_path / "clip", config)
    factory.tokenizer_of("bert").save_pretrained(folder)
    model = load_model(f"open_clip:{folder}", device="cpu")
    assert (model.frame.head, model.frame.tail, model.frame.width) == ((2,), (3,), None)
    got = model.encode_texts(TEXTS).features
    assert got is not None
    torch.testing.assert_close(got, library_features(folder, TEXTS), atol=1e-5, rtol=1e-5)
    assert load_embeddings(f"open_clip:{folder}").identity == model.identity()


def test_options_that_are_not_for_towers(loaded: Load, open_clip_dir: Path) -> None:
    model = loaded("clip")
    batch = model.batch([[270]])
    with pytest.raises(OptionError, match="logits_from"):
        model.forward(model.embed(batch.ids), batch, logits_from=1)
    with pytest.raises(ModelError, match="as kind"):
        load_model(f"open_clip:{open_clip_dir}", kind="causal")


def test_substitute_is_undone_after_an_error(loaded: Load) -> None:
    model = loaded("clip")
    assert isinstance(model, ClipModel)
    ids = torch.tensor([[270, 280]])
    before = model.embed(ids)
    with pytest.raises(RuntimeError, match="stop"), model._substitute.using(before + 1):
        raise RuntimeError("stop")
    assert torch.equal(model.embed(ids), before)
