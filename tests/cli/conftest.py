"""What the verbs' tests share."""

from __future__ import annotations

from typing import Any

import pytest

from fuse_index.models import Model
from fuse_index.run import assembly


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
