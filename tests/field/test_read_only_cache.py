"""A cache that is filled once and then shared read-only, as on clusters and in containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse_index.models import Model
from fuse_index.run import AdapterConfig, AdapterStore


def test_an_adapter_that_is_there_is_used_without_a_lock(
    lm: Model, sentiment: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of a lock cannot be made on a read-only file system, though all else is there.

    https://github.com/huggingface/huggingface_hub/issues/2797
    """
    config = AdapterConfig(cache=tmp_path)
    before = AdapterStore(lm, config).get(sentiment)
    monkeypatch.setattr("filelock.FileLock", lambda *_, **__: pytest.fail("a lock was taken"))
    found = AdapterStore(lm, config).get(sentiment)
    assert found is not None
    assert before is not None
    assert (found.faces == before.faces).all()
