"""Tiny checkpoints of every family, written and loaded once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fuse_index.models import Model, load_model
from tests.models import factory


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> folder of its checkpoint."""
    folders: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in folders:
            folders[family] = factory.save_model(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return get


@pytest.fixture(scope="session")
def loaded(saved: Callable[[str], Path]) -> Callable[..., Model]:
    """Family (and kind) -> its model on the CPU in float32."""
    models: dict[tuple[str, str | None], Model] = {}

    def get(family: str, kind: str | None = None) -> Model:
        if (family, kind) not in models:
            models[family, kind] = load_model(str(saved(family)), kind=kind, device="cpu")
        return models[family, kind]

    return get


@pytest.fixture(scope="session")
def open_clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny open_clip model as open_clip saves it."""
    return factory.save_open_clip(tmp_path_factory.mktemp("open_clip"))
