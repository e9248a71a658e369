"""Push to and pull from the Hub, through the real client library."""

from __future__ import annotations

import pytest

from fuse_index import Adapter
from fuse_index.share import PushOptions, pull, push
from tests.share.conftest import files_of


def test_what_is_pushed_is_what_is_pulled(hub, bundle, tmp_path):
    pushed = push(bundle, "org/name", PushOptions(license="mit"))
    pulled = pull("org/name", tmp_path / "out")
    assert pulled.revision == pushed.revision == hub.repositories["org/name"].branches["main"]
    assert pulled.manifest == pushed.manifest
    before, after = files_of(bundle), files_of(tmp_path / "out")
    assert set(after) == set(before)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"README.md", "manifest.json"}
    card = after["README.md"].decode()
    assert 'license: "mit"' in card
    assert 'Adapter.from_pretrained("org/name")' in card
