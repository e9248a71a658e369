"""The packaged demo models, adapters between them, and small problems to optimize."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from fuse_index.adapter import Adapter
from fuse_index.build import build_bundle
from fuse_index.demo import DemoModel, Split, draw, make_scene, model_name, write_corpus
from fuse_index.models import Model, load_model
from fuse_index.objectives import ClassifierLabel, Fluency, ImageSimilarity
from fuse_index.optimize import Problem, Term, TokenFilter
from fuse_index.run import assembly

START = "the picture contains a small circle on the left"
"""A sentence of the demo's world, of one source token a word."""

BASE = "the picture contains a gorgeous circle on the left"
"""One with a word of several source tokens."""

BuildAdapter = Callable[[DemoModel], Adapter]


def _loaded(model: DemoModel) -> Model:
    return load_model(model_name(model), device="cpu")


@pytest.fixture(scope="session")
def lm() -> Model:
    """The source: a causal LM of 560 tokens with a beginning-of-sequence token."""
    return _loaded(DemoModel.LM)


@pytest.fixture(scope="session")
def clip() -> Model:
    """CLIP, with other tokens than the source."""
    return _loaded(DemoModel.CLIP)


@pytest.fixture(scope="session")
def sentiment() -> Model:
    """The classifier (negative, neutral, positive), with other tokens than the other two."""
    return _loaded(DemoModel.SENTIMENT)


@pytest.fixture(scope="session")
def build_adapter(tmp_path_factory: pytest.TempPathFactory) -> BuildAdapter:
    """Demo model -> the adapter from the source to it, built once a session."""
    folder = tmp_path_factory.mktemp("adapters")
    corpus = write_corpus(folder / "corpus.txt", scenes=150)
    built: dict[DemoModel, Adapter] = {}

    def get(target: DemoModel) -> Adapter:
        if target not in built:
            names = model_name(DemoModel.LM), model_name(target)
            path = build_bundle(*names, folder / target.value, [corpus]).path
            built[target] = Adapter.from_pretrained(path)
        return built[target]

    return get


@pytest.fixture(scope="session")
def clip_adapter(build_adapter: BuildAdapter) -> Adapter:
    """From the LM to CLIP."""
    return build_adapter(DemoModel.CLIP)


@pytest.fixture(scope="session")
def sentiment_adapter(build_adapter: BuildAdapter) -> Adapter:
    """From the LM to the classifier."""
    return build_adapter(DemoModel.SENTIMENT)


@pytest.fixture(scope="session")
def image() -> PIL.Image.Image:
    """A picture of the demo's world."""
    return draw(make_scene(Split.TEST, 0))


@pytest.fixture(scope="session")
def image_path(image: PIL.Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The picture as a file, so that objectives with it can be written down."""
    path = tmp_path_factory.mktemp("images") / "scene.png"
    image.save(path)
    return path


@pytest.fixture(scope="session")
def problem(lm: Model, clip: Model, clip_adapter: Adapter, image_path: Path) -> Problem:
    """Readable to the LM and like the picture to CLIP, in whole words."""
    terms = [
        Term(Fluency(weight=0.1), lm),
        Term(ImageSimilarity(images=image_path, weight=2.0), clip, clip_adapter),
    ]
    return Problem(lm, terms, tokens=TokenFilter(words_only=True))


@pytest.fixture(scope="session")
def clip_only(lm: Model, clip: Model, clip_adapter: Adapter, image_path: Path) -> Problem:
    """Like the picture: one target with other tokens than the source, and all words."""
    return Problem(lm, [Term(ImageSimilarity(images=image_path), clip, clip_adapter)])


@pytest.fixture(scope="session")
def lm_problem(lm: Model) -> Problem:
    """Readable to the LM, nothing else: one model and no adapter, so fast."""
    return Problem(lm, [Term(Fluency(), lm)], tokens=TokenFilter(words_only=True))


@pytest.fixture(scope="session")
def three_models(
    lm: Model,
    clip: Model,
    sentiment: Model,
    clip_adapter: Adapter,
    sentiment_adapter: Adapter,
    image_path: Path,
) -> Problem:
    """Readable, like the picture, and positive."""
    terms = [
        Term(Fluency(weight=0.1), lm),
        Term(ImageSimilarity(images=image_path), clip, clip_adapter),
        Term(ClassifierLabel(label="positive", weight=0.2), sentiment, sentiment_adapter),
    ]
    return Problem(lm, terms, tokens=TokenFilter(words_only=True))


@pytest.fixture(scope="session")
def _models() -> dict[tuple[Any, ...], Model]:
    return {}


@pytest.fixture
def models_once(_models, monkeypatch) -> None:
    """Load a run's models once a session: they are frozen, and loading is half of a short run."""
    load = assembly.load_model

    def load_once(name: str, **options: Any) -> Model:
        key = (name, *sorted(options.items()))
        if key not in _models:
            _models[key] = load(name, **options)
        return _models[key]

    monkeypatch.setattr(assembly, "load_model", load_once)
