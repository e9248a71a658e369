from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fuse_index.errors import ModelError
from fuse_index.models import ModelName, ModelSource, load_embeddings, parse_model_name
from fuse_index.models.packaged import DemoModel, model_name
from fuse_index.models.weights import weights_bytes


def test_hub_id_with_and_without_revision() -> None:
    assert parse_model_name("gpt2") == ModelName("gpt2", ModelSource.HUB, "gpt2")
    assert parse_model_name("org/name-1.5B@refs/pr/7") == ModelName(
        "org/name-1.5B@refs/pr/7", ModelSource.HUB, "org/name-1.5B", "refs/pr/7"
    )


def test_directory_wins_over_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name@1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_model_name("org/name@1").source is ModelSource.DIRECTORY
    assert parse_model_name("org/name").source is ModelSource.HUB


@pytest.mark.parametrize(
    ("text", "location", "weights"),
    [
        ("open_clip:ViT-B-32", "ViT-B-32", None),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "ViT-B-32", "laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32//data/w.safetensors", "ViT-B-32", "/data/w.safetensors"),
        ("open_clip:ViT-B-32/some/w.safetensors", "ViT-B-32", "some/w.safetensors"),
        ("open_clip:hf-hub:org/name", "hf-hub:org/name", None),
    ],
)
def test_open_clip(text: str, location: str, weights: str | None) -> None:
    assert parse_model_name(text) == ModelName(
        text, ModelSource.OPEN_CLIP, location, weights=weights
    )


def test_open_clip_hub_revision() -> None:
    parsed = parse_model_name("open_clip:hf-hub:org/name@abc")
    assert (parsed.location, parsed.revision) == ("hf-hub:org/name", "abc")


def test_open_clip_directory_and_configuration_file(tmp_path: Path) -> None:
    assert parse_model_name(f"open_clip:{tmp_path}").location == str(tmp_path)
    config = tmp_path / "tiny.json"
    config.write_text("{}")
    parsed = parse_model_name(f"open_clip:{config}/{tmp_path}/w.safetensors")
    assert (parsed.location, parsed.weights) == (str(config), f"{tmp_path}/w.safetensors")


def test_misspelt_directory_suggests_the_near_one(tmp_path: Path) -> None:
    (tmp_path / "gpt2-lm").mkdir()
    with pytest.raises(ModelError) as error:
        parse_model_name(str(tmp_path / "gpt2-ln"))
    assert "does not exist" in str(error.value)
    assert f"did you mean {str(tmp_path / 'gpt2-lm')!r}?" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "a b", "a/b/c", "open_clip:", "./nowhere", "open_clip:/nowhere"]
)
def test_malformed_names_say_what_is_accepted(text: str) -> None:
    with pytest.raises(ModelError, match="open_clip:ARCH") as error:
        parse_model_name(text)
    assert "\n" not in str(error.value)


def test_file_instead_of_directory(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match="is a file; expected a directory; try"):
        parse_model_name(str(file))


@pytest.mark.parametrize("model", list(DemoModel))
def test_packaged_models_have_names_everywhere(model: DemoModel) -> None:
    name = f"demo:{model.value}"
    by_place = parse_model_name(model_name(model))
    assert parse_model_name(name) == replace(by_place, text=name)
    found, expected = load_embeddings(name), load_embeddings(model_name(model))
    assert found.identity.name == name
    assert not found.identity.differences(expected.identity)
    assert weights_bytes(name) == weights_bytes(model_name(model))


def test_a_packaged_model_that_does_not_exist() -> None:
    for name in ("demo:", "demo:gpt", "demo:LM", "demo:lm/../clip"):
        with pytest.raises(ModelError) as error:
            parse_model_name(name)
        assert str(error.value) == (
            f"model {name!r}; expected one of demo:lm, demo:clip, demo:sentiment, demo:judge"
        )
