"""The packaged demo models, and one cache of adapters for the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse_index.demo import DemoModel, Split, draw, make_scene, model_name, write_vocabulary
from fuse_index.models import Model, load_model
from fuse_index.run import AdapterConfig, AdapterStore


@pytest.fixture(scope="session")
def lm() -> Model:
    """The source."""
    return load_model(model_name(DemoModel.LM), device="cpu")


@pytest.fixture(scope="session")
def sentiment() -> Model:
    """A classifier with other tokens."""
    return load_model(model_name(DemoModel.SENTIMENT), device="cpu")


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Path:
    """The words of the demo's world."""
    return write_vocabulary(tmp_path_factory.mktemp("words") / "words.txt")


@pytest.fixture(scope="session")
def config(tmp_path_factory, words) -> AdapterConfig:
    """Adapters from those words, kept in a cache of the session."""
    return AdapterConfig(words=str(words), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def store(lm, config) -> AdapterStore:
    """Adapters from the LM."""
    return AdapterStore(lm, config)


@pytest.fixture(scope="session")
def image(tmp_path_factory) -> Path:
    """A picture of the demo's world."""
    path = tmp_path_factory.mktemp("images") / "scene.png"
    draw(make_scene(Split.TEST, 0)).save(path)
    return path
