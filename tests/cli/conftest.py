"""What the verbs' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fuse_index.demo import write_vocabulary
from tests.cli.running import START


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
