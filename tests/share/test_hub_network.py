"""Pulls from the Hub over a bad network: cut connections, altered bytes, servers that lie."""

from __future__ import annotations

import shutil

import pytest

from fuse_index import Adapter
from fuse_index.bundle import read_bundle, verify_bundle
from fuse_index.errors import (
    BundleError,
    RemoteError,
)
from fuse_index.share import locate, pull
from tests.bundle import sample
from tests.share.conftest import files_of

ADAPTER, WORDS, GROUPS = "adapter.safetensors", "words.safetensors", "groups.safetensors"


class TestBadNetwork:
    def test_a_cut_connection_is_taken_up_where_it_stopped(self, hub, published, tmp_path):
        hub.faults.cut[GROUPS] = [100, 50]
        pull("org/name", tmp_path / "out")
        spans = [span for path, span in hub.fetched("/cdn/") if GROUPS in path]
        assert spans == ["", "bytes=100-", "bytes=150-"]
        verify_bundle(tmp_path / "out")

    def test_a_pull_that_failed_goes_on_with_the_file_that_is_missing(
        self, hub, published, tmp_path
    ):
        hub.faults.cut[GROUPS] = [100] + [0] * 20
        with pytest.raises(
            RemoteError, match=r"cannot be read: no connection .* run the same again"
        ):
            pull("org/name", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        with pytest.raises(BundleError, match=r"does not exist"):
            read_bundle(tmp_path / "out")
        hub.faults.cut.clear()
        hub.log.clear()
        pull("org/name", tmp_path / "out")
        fetched = {path.rpartition("/")[2] for path, _ in hub.fetched("/cdn/")}
        assert GROUPS in fetched
        assert ADAPTER not in fetched
        verify_bundle(tmp_path / "out")
        assert not list(tmp_path.glob(".out*"))

    def test_so_does_a_load_into_the_cache(self, hub, published, caches):
        hub.faults.cut[ADAPTER] = [64] + [0] * 20
        with pytest.raises(RemoteError, match=r"no connection"):
            Adapter.from_pretrained("org/name")
        with pytest.raises(RemoteError, match=r"the Hub's cache has no copy"):
            Adapter.from_pretrained("org/name", local_files_only=True)
        with pytest.raises(RemoteError, match=rf"org/name: the cache has no {ADAPTER}"):
            Adapter.from_pretrained("org/name", revision=published, local_files_only=True)
        hub.faults.cut.clear()
        hub.log.clear()
        Adapter.from_pretrained("org/name")
        (fetched,) = (path for path, _ in hub.fetched("/cdn/"))
        assert ADAPTER in fetched

    def test_a_server_that_ignores_ranges(self, hub, published, tmp_path):
        hub.faults.cut[GROUPS] = [100]
        hub.faults.ignore_ranges = True
        pull("org/name", tmp_path / "out")
        verify_bundle(tmp_path / "out")

    @pytest.mark.parametrize("member", [ADAPTER, WORDS, GROUPS, "README.md", "index/target.json"])
    def test_an_altered_byte(self, hub, published, bundle, tmp_path, caches, member):
        hub.faults.altered.add(member)
        shutil.copytree(bundle, tmp_path / "out")
        before = files_of(tmp_path / "out")
        message = rf"org/name@{published[:12]}: {member} is damaged: sha256 .* by the manifest"
        with pytest.raises(BundleError, match=message):
            pull("org/name", tmp_path / "out", overwrite=True)
        assert files_of(tmp_path / "out") == before
        with pytest.raises(BundleError, match=message):
            pull("org/name")
        assert not list(caches.rglob(f"snapshots/*/{member}"))
        with pytest.raises(RemoteError, match=r"the Hub's cache has no copy"):
            locate("org/name", local_files_only=True)
        hub.faults.altered.clear()
        assert files_of(pull("org/name").path) == before

    def test_an_altered_manifest(self, hub, published):
        hub.faults.altered.add("manifest.json")
        with pytest.raises(BundleError, match=r"org/name@\w+: manifest.json is not valid JSON"):
            Adapter.from_pretrained("org/name")

    def test_a_file_without_an_end(self, hub, published, caches):
        hub.faults.lengthened[ADAPTER] = 1 << 20
        with pytest.raises(
            BundleError, match=r"adapter.safetensors is too long; expected \d+ bytes"
        ):
            Adapter.from_pretrained("org/name")
        assert sum(path.stat().st_size for path in caches.rglob("*") if path.is_file()) < 1 << 16

    @pytest.mark.parametrize(("member", "size"), [(ADAPTER, 1 << 50), ("manifest.json", 1 << 40)])
    def test_a_size_that_is_not_the_manifests(self, hub, published, member, size):
        hub.faults.announced[member] = size
        with pytest.raises(BundleError, match=rf"{member} has {size} bytes"):
            Adapter.from_pretrained("org/name")
        assert not hub.fetched(ADAPTER)

    def test_a_hostile_etag(self, hub, published, caches):
        hub.faults.etag = "../../../../evil"
        with pytest.raises(RemoteError, match=r"what answers at http://127.0.0.1:\d+ is not a Hub"):
            Adapter.from_pretrained("org/name")
        assert not list(caches.rglob("evil*"))

    @pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "index/../evil", "a\\b", "x/y"])
    def test_hostile_names_in_a_manifest(self, hub, bundle, tmp_path, name):
        def edit(value):
            value["files"][name] = value["files"][ADAPTER]

        sample.edit_manifest(bundle, edit)
        hub.add("org/evil", files_of(bundle) | {name: b"evil"})
        with pytest.raises(BundleError, match=r"expected a bundle's file, or a plain name"):
            pull("org/evil", tmp_path / "deep" / "er" / "out")
        assert not list(tmp_path.rglob("evil*"))

    def test_a_bundle_whose_checksums_fit_but_whose_content_does_not(self, hub, bundle, tmp_path):
        sample.edit_column(bundle / ADAPTER, "adapter.fallback", lambda a: a * float("nan"))
        sample.reseal(bundle)
        hub.add("org/evil", files_of(bundle))
        for out in (tmp_path / "out", None):
            with pytest.raises(BundleError, match=r"'adapter.fallback' holds NaN or infinity"):
                pull("org/evil", out)
        assert not list(tmp_path.glob("*out*"))
        assert not list(tmp_path.glob(".out*"))

    def test_an_overloaded_hub(self, hub, published):
        hub.faults.fail["/resolve/"] = 500
        with pytest.raises(RemoteError, match=r"org/name cannot be read: the Hub has a problem"):
            Adapter.from_pretrained("org/name")

    def test_damage_in_the_cache_is_found_and_a_pull_heals_it(self, hub, published, bundle):
        path = pull("org/name").path
        data = bytearray((path / ADAPTER).read_bytes())
        data[-1] ^= 1
        (path / ADAPTER).write_bytes(data)
        with pytest.raises(BundleError, match=r"adapter.safetensors is damaged"):
            Adapter.from_pretrained("org/name")
        hub.log.clear()
        pull("org/name")
        assert len(hub.fetched("/cdn/")) == 1
        Adapter.from_pretrained("org/name")
