"""Bundles without some of their files, and with what their publisher says."""

from __future__ import annotations

import json

import pytest

from fuse_index.bundle import read_bundle, read_manifest, verify_bundle, write_bundle
from fuse_index.bundle.card import render_card
from fuse_index.bundle.trim import carry_bundle, trim
from fuse_index.errors import BundleError
from tests.bundle import sample


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "target.faiss").write_bytes(b"faiss")
    files = {"target.faiss": tmp_path / "target.faiss"}
    indexes = {"target": {"kind": "pq"}}
    write_bundle(tmp_path / "bundle", sample.contents(index_files=files, indexes=indexes))
    return tmp_path / "bundle"


def test_nothing_to_leave_out_is_the_same_manifest(bundle):
    manifest = read_manifest(bundle)
    assert trim(manifest) == (manifest, None)
    assert trim(manifest, published={})[1] is None


@pytest.mark.parametrize(("groups", "index"), [(True, False), (False, True), (False, False)])
def test_what_is_left_is_a_bundle(bundle, tmp_path, groups, index):
    manifest, card = trim(read_manifest(bundle), groups=groups, index=index)
    (tmp_path / "made").mkdir()
    carry_bundle(bundle, manifest, card, tmp_path / "made")
    found = verify_bundle(tmp_path / "made")
    assert found == manifest
    assert ("groups.safetensors" in found.files) is groups
    assert ("index/target.faiss" in found.files) is index is bool(found.indexes)
    assert read_bundle(tmp_path / "made").table.words == sample.TABLE.words
    for name in ("words.safetensors", "adapter.safetensors"):
        assert found.files[name] == read_manifest(bundle).files[name]


def test_a_damaged_file_is_not_carried(bundle, tmp_path):
    manifest, card = trim(read_manifest(bundle), groups=False)
    (bundle / "adapter.safetensors").write_bytes(b"x")
    (tmp_path / "made").mkdir()
    with pytest.raises(BundleError, match=r"adapter.safetensors is truncated"):
        carry_bundle(bundle, manifest, card, tmp_path / "made")


def test_what_the_publisher_says_is_in_manifest_and_card(bundle):
    said = {"name": 'org/"name"', "license": "cc-by-4.0"}
    manifest, card = trim(read_manifest(bundle), published=said)
    assert json.loads(manifest.to_bytes())["published"] == said
    assert card == render_card(manifest).encode()
    text = card.decode()
    assert 'license: "cc-by-4.0"' in text.split("---")[1]
    assert r'Adapter.from_pretrained("org/\"name\"", source.identity(), target.identity())' in text
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(text.split("---")[1])["base_model"] == [
        "org/source-lm",
        "org/target-encoder",
    ]


@pytest.mark.parametrize(
    "said", [{"other": "x"}, {"name": 1}, {"name": ""}, {"license": "a\nb"}, []]
)
def test_other_things_published_are_refused(bundle, said):
    sample.edit_manifest(bundle, lambda value: value.update(published=said))
    with pytest.raises(BundleError, match=r"published"):
        read_manifest(bundle)
