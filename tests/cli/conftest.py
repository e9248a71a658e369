"""What the verbs' tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fuse_index.demo import write_vocabulary
from fuse_index.models import Model
from fuse_index.run import assembly
from tests.cli.running import START


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


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache that all tests of ``optimize`` share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def use_cache(cache, models_once, monkeypatch) -> None:
    """Adapters and models are made once a session."""
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(cache))


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Path:
    """The words of the demo's world."""
    return write_vocabulary(tmp_path_factory.mktemp("words") / "words.txt")


@pytest.fixture
def file(tmp_path, words) -> Path:
    """A run file: fluent and positive."""
    run = {
        "models": {"lm": "demo:lm", "sentiment": "demo:sentiment"},
        "objectives": [
            {"type": "fluency", "model": "lm"},
            {"type": "label", "model": "sentiment", "label": "positive"},
        ],
        "initial": START,
        "method": {"type": "gcg", "search_width": 16, "top_k": 32},
        "budget": {"steps": 3},
        "adapters": {"words": str(words)},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")
    return path
