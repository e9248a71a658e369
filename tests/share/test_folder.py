"""Push to and pull from folders."""

from __future__ import annotations

import pytest

from fuse_index.bundle import verify_bundle
from fuse_index.errors import BundleError, StorageError
from fuse_index.share import PushOptions, pull, push
from tests.share.conftest import files_of

GROUPS = "groups.safetensors"


def test_what_is_pushed_is_what_is_pulled(bundle, tmp_path):
    pushed = push(bundle, str(tmp_path / "shared"))
    pulled = pull(tmp_path / "shared", tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "shared") == files_of(bundle)
    assert pulled.revision == pushed.revision == pulled.manifest.to_json()["checksum"]
    with pytest.raises(StorageError, match=r"exists; expected a folder .*--overwrite"):
        push(bundle, str(tmp_path / "shared"))
    push(bundle, str(tmp_path / "shared"), PushOptions(groups=False, overwrite=True))
    assert set(files_of(bundle)) - set(files_of(tmp_path / "shared")) == {GROUPS}


def test_a_partial_pull_is_a_whole_bundle(bundle, tmp_path):
    pull(bundle, tmp_path / "out", groups=False, index=False)
    manifest = verify_bundle(tmp_path / "out")
    assert set(files_of(bundle)) - set(files_of(tmp_path / "out")) == {GROUPS, "index/target.json"}
    assert manifest.indexes == {}


def test_a_damaged_bundle_is_refused(bundle, tmp_path):
    data = bytearray((bundle / GROUPS).read_bytes())
    data[-1] ^= 1
    (bundle / GROUPS).write_bytes(data)
    with pytest.raises(BundleError, match=r"groups.safetensors is damaged"):
        pull(bundle, tmp_path / "out")
    (bundle / GROUPS).unlink()
    with pytest.raises(BundleError, match=r"groups.safetensors is missing"):
        pull(bundle, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    pull(bundle, tmp_path / "out", groups=False)
    verify_bundle(tmp_path / "out")
