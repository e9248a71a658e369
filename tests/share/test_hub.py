"""Push to and pull from the Hub, through the real client library."""

from __future__ import annotations

import json
import logging
import os
import shutil

import pytest
import torch

from fuse_index import Adapter
from fuse_index.bundle import read_bundle, verify_bundle
from fuse_index.errors import (
    BundleError,
    FuseIndexError,
    IdentityError,
    OptionError,
    RemoteError,
    StorageError,
)
from fuse_index.share import PushOptions, locate, pull, push
from tests.bundle import sample
from tests.share.conftest import files_of
from tests.share.hub_server import READER, Hub

ADAPTER, WORDS, GROUPS = "adapter.safetensors", "words.safetensors", "groups.safetensors"


class TestPush:
    def test_what_is_pushed_is_what_is_pulled(self, hub, bundle, tmp_path):
        pushed = push(bundle, "org/name", PushOptions(license="mit"))
        pulled = pull("org/name", tmp_path / "out")
        assert pulled.revision == pushed.revision == hub.repositories["org/name"].branches["main"]
        assert pulled.manifest == pushed.manifest == verify_bundle(tmp_path / "out")
        before, after = files_of(bundle), files_of(tmp_path / "out")
        assert set(after) == set(before)
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"README.md", "manifest.json"}
        card = after["README.md"].decode()
        assert 'license: "mit"' in card
        assert 'base_model:\n- "org/source-lm"\n- "org/target-encoder"' in card
        assert 'Adapter.from_pretrained("org/name", source.identity(), target.identity())' in card
        assert not list(tmp_path.glob(".*"))

    def test_a_new_repository_is_private_if_asked(self, hub, bundle):
        push(bundle, "org/secret", PushOptions(private=True))
        assert hub.repositories["org/secret"].private
        push(bundle, "org/open")
        assert not hub.repositories["org/open"].private
        commits = len(hub.repositories["org/open"].commits)
        with pytest.raises(RemoteError, match=r"org/open is public; expected a private repository"):
            push(bundle, "org/open", PushOptions(private=True))
        assert len(hub.repositories["org/open"].commits) == commits

    def test_a_second_push_is_one_commit_without_the_files_left_out(self, hub, bundle):
        push(bundle, "org/name")
        repository = hub.repositories["org/name"]
        assert {GROUPS, "index/target.json"} <= set(repository.commits[repository.branches["main"]])
        count = len(repository.commits)
        done = push(bundle, "org/name", PushOptions(groups=False, index=False))
        assert len(repository.commits) == count + 1
        files = repository.commits[done.revision]
        assert set(files) == {ADAPTER, WORDS, "README.md", "manifest.json", ".gitattributes"}
        assert "indexes" not in json.loads(files["manifest.json"])

    def test_a_branch_is_made(self, hub, bundle):
        push(bundle, "org/name")
        done = push(bundle, "org/name@trial", PushOptions(groups=False))
        branches = hub.repositories["org/name"].branches
        assert branches["trial"] == done.revision != branches["main"]
        assert GROUPS in pull("org/name").manifest.files
        assert GROUPS not in pull("org/name@trial").manifest.files

    def test_other_peoples_files_are_left_alone(self, hub, bundle):
        hub.add("org/model", {"model.safetensors": b"weights", "config.json": b"{}"})
        with pytest.raises(StorageError, match=r"org/model holds 'config.json' and no bundle"):
            push(bundle, "org/model")
        assert len(hub.repositories["org/model"].commits) == 1

    @pytest.mark.parametrize(
        ("token", "message"),
        [
            ("hf_wrong", r"org/name: the Hub does not accept the token; run `hf auth login` again"),
            (READER, r"org/name cannot be written: permission denied"),
            ("", r"org/name cannot be written: no token of the Hub; run `hf auth login`"),
        ],
    )
    def test_wrong_tokens(self, hub, bundle, monkeypatch, token, message):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(RemoteError, match=message):
            push(bundle, "org/name")
        assert "org/name" not in hub.repositories

    def test_a_damaged_bundle_is_not_sent(self, hub, bundle):
        data = bytearray((bundle / GROUPS).read_bytes())
        data[-1] ^= 1
        (bundle / GROUPS).write_bytes(data)
        with pytest.raises(BundleError, match=r"groups.safetensors is damaged"):
            push(bundle, "org/name")
        assert hub.log == []

    @pytest.mark.parametrize("piece", ["/commit/", "/put/", "/preupload/", "/batch"])
    def test_a_failure_leaves_the_old_commit(self, hub, bundle, piece):
        push(bundle, "org/name", PushOptions(groups=False))
        before = dict(hub.repositories["org/name"].branches)
        hub.objects.clear()
        hub.faults.fail[piece] = 400
        with pytest.raises(RemoteError, match=r"org/name cannot be written"):
            push(bundle, "org/name")
        assert hub.repositories["org/name"].branches == before
        assert sorted(path.name for path in bundle.parent.glob(".*")) == []

    def test_bad_options(self, hub, bundle):
        with pytest.raises(OptionError, match=r"license 'MIT License'; expected an identifier"):
            PushOptions(license="MIT License")
        with pytest.raises(OptionError, match=r"private=3; expected true or false"):
            PushOptions(private=3)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match=r"is a commit; expected a branch"):
            push(bundle, "org/name@" + "a" * 40)


class TestPull:
    def test_one_commit_for_all_files_even_when_the_branch_moves(self, hub, bundle, published):
        """The branch moves while the first file is fetched."""
        newer = dict.fromkeys(files_of(bundle), b"newer")

        def move(path):
            if "words" in path:
                hub.repositories["org/name"].commit(newer)

        hub.faults.on_content = move
        path = locate("org/name")
        assert path.name == published != hub.repositories["org/name"].branches["main"]
        assert read_bundle(path).table.words == sample.TABLE.words
        asked = {p.split("/resolve/")[1].split("/")[0] for _, p, _ in hub.log if "/resolve/" in p}
        assert asked == {"main", published}

    def test_an_adapter_is_loaded_without_groups_and_index(self, hub, published):
        adapter = Adapter.from_pretrained("org/name", sample.SOURCE, sample.TARGET)
        for name, faces in sample.adapters().items():
            assert torch.equal(adapter[name], faces)
        assert not hub.fetched(GROUPS)
        assert not hub.fetched("index/")
        assert not hub.fetched("README")

    def test_a_second_load_asks_only_for_the_revision(self, hub, published):
        Adapter.from_pretrained("org/name")
        hub.log.clear()
        Adapter.from_pretrained("org/name")
        assert [(m, p) for m, p, _ in hub.log] == [("HEAD", "/org/name/resolve/main/manifest.json")]
        hub.log.clear()
        Adapter.from_pretrained("org/name", revision=published)
        assert hub.log == []

    def test_a_load_offline(self, hub, published, monkeypatch):
        import huggingface_hub.constants as hub_constants

        with pytest.raises(
            RemoteError, match=r"org/name: there is no such folder, the Hub's cache has"
        ):
            Adapter.from_pretrained("org/name", local_files_only=True)
        Adapter.from_pretrained("org/name")
        hub.log.clear()
        Adapter.from_pretrained("org/name", local_files_only=True)
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
        Adapter.from_pretrained("org/name")
        with pytest.raises(RemoteError, match=r"has no README.md; expected a copy"):
            pull("org/name")
        with pytest.raises(
            RemoteError, match=r"org/other: .* is not asked \(HF_HUB_OFFLINE is set"
        ):
            Adapter.from_pretrained("org/other")
        assert hub.log == []

    def test_without_a_network_the_cache_is_used_and_it_is_said(self, hub, published, caplog):
        Adapter.from_pretrained("org/name")
        hub.stop()
        with caplog.at_level(logging.WARNING, "fuse_index"):
            Adapter.from_pretrained("org/name")
        assert f"using the copy of commit {published[:12]} in the cache" in caplog.text
        with pytest.raises(
            RemoteError, match=r"org/other cannot be read: no connection to the Hub"
        ):
            Adapter.from_pretrained("org/other")

    def test_a_cache_that_another_library_filled_is_used(self, hub, published):
        """For example by ``hf download`` on a machine that has a network."""
        from huggingface_hub import snapshot_download

        snapshot_download("org/name")
        hub.stop()
        Adapter.from_pretrained("org/name", local_files_only=True)
        path = locate("org/name", local_files_only=True)
        assert path.name == published
        assert verify_bundle(path).words == 5

    def test_the_cache_is_one_that_other_libraries_read(self, hub, published):
        from huggingface_hub import scan_cache_dir, try_to_load_from_cache

        path = pull("org/name").path
        assert try_to_load_from_cache("org/name", ADAPTER) == str(path / ADAPTER)
        (repo,) = scan_cache_dir(str(path.parents[2])).repos
        assert repo.repo_id == "org/name"
        assert {file.file_name for revision in repo.revisions for file in revision.files} >= {
            ADAPTER,
            GROUPS,
            "manifest.json",
        }

    def test_partial_pulls_are_whole_bundles(self, hub, published, tmp_path):
        pull("org/name", tmp_path / "out", groups=False, index=False)
        manifest = verify_bundle(tmp_path / "out")
        assert set(manifest.files) == {ADAPTER, WORDS, "README.md"}
        assert manifest.indexes == {}
        assert not hub.fetched(GROUPS)
        pulled = pull("org/name", groups=False, index=False)
        assert pulled.missing == (GROUPS, "index/target.json")

    def test_identity_is_checked(self, hub, published):
        import dataclasses

        other = dataclasses.replace(sample.SOURCE, name="org/mine", tokenizer_hash="f" * 64)
        with pytest.raises(IdentityError, match=r"'org/mine' .* 'org/source-lm' at revision 0123"):
            Adapter.from_pretrained("org/name", other)

    def test_an_output_that_exists(self, hub, published, bundle):
        before = files_of(bundle)
        with pytest.raises(StorageError, match=r"exists; expected a folder .*--overwrite"):
            pull("org/name", bundle)
        assert hub.log == []
        pull("org/name", bundle, groups=False, overwrite=True)
        assert set(before) - set(files_of(bundle)) == {GROUPS}


class TestMissing:
    def test_an_id_that_does_not_exist(self, hub):
        message = (
            r"org/none: there is no such folder, and the Hub has no such repository, or you may"
        )
        with pytest.raises(RemoteError, match=message):
            Adapter.from_pretrained("org/none")

    def test_a_private_id(self, hub, bundle, monkeypatch):
        hub.add("org/secret", files_of(bundle), private=True)
        shutil.rmtree(locate("org/secret").parents[1])
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(
            RemoteError, match=r"for a private one run `hf auth login` or set HF_TOKEN"
        ):
            Adapter.from_pretrained("org/secret")
        Adapter.from_pretrained("org/secret", token=READER)

    def test_a_wrong_token(self, hub, published, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(
            RemoteError, match=r"org/name: the Hub does not accept the token"
        ) as info:
            Adapter.from_pretrained("org/name")
        assert "hf_wrong" not in str(info.value)

    @pytest.mark.parametrize("revision", ["v9", "f" * 40, "feature/x"])
    def test_a_revision_that_does_not_exist(self, hub, published, revision):
        with pytest.raises(RemoteError, match=rf"org/name@{revision}: the repository has no such"):
            Adapter.from_pretrained("org/name", revision=revision)

    def test_a_repository_without_a_bundle(self, hub):
        hub.add("org/model", {"config.json": b"{}"})
        with pytest.raises(BundleError, match=r"org/model@main has no manifest.json; expected a"):
            Adapter.from_pretrained("org/model")

    def test_a_tag_and_a_commit_are_pins(self, hub, published, bundle):
        hub.repositories["org/name"].branches["v1"] = published
        hub.add("org/name", {"manifest.json": b"{}"})
        for revision in ("v1", published):
            assert locate(f"org/name@{revision}").name == published
        with pytest.raises(FuseIndexError):
            locate("org/name")

    def test_a_failed_load_leaves_the_cached_revision(self, hub, published, bundle):
        Adapter.from_pretrained("org/name")
        sample.edit_manifest(bundle, lambda value: value["options"].update(seed=1))
        hub.add("org/name", files_of(bundle) | {ADAPTER: b"x"})
        with pytest.raises(BundleError, match=r"adapter.safetensors has 1 bytes"):
            pull("org/name")
        with Hub():
            adapter = Adapter.from_pretrained("org/name", local_files_only=True)
        assert adapter.bundle.path.name == published


@pytest.mark.parametrize("asked", ["org/name", "commit"])
def test_a_cache_that_cannot_be_written_is_enough_if_it_is_full(hub, published, monkeypatch, asked):
    name = f"org/name@{published}" if asked == "commit" else asked
    pull(name)

    def refuse(*_, **__):
        raise PermissionError("read-only")

    for function in ("replace", "symlink", "mkdir"):
        monkeypatch.setattr(os, function, refuse)
    Adapter.from_pretrained(name)
    pull(name)


def test_two_pulls_to_one_place_at_once(hub, published, tmp_path):
    """One waits for the other, and then finds that the output exists."""
    from concurrent.futures import ThreadPoolExecutor

    def one(_):
        try:
            return pull("org/name", tmp_path / "deep" / "out").path
        except StorageError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(one, range(4)))
    assert results.count(tmp_path / "deep" / "out") == 1
    assert all("exists" in str(result) for result in results if isinstance(result, str))
    verify_bundle(tmp_path / "deep" / "out")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_two_loads_into_the_cache_at_once(hub, published):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        adapters = list(pool.map(lambda _: Adapter.from_pretrained("org/name"), range(4)))
    assert len({adapter.bundle.path for adapter in adapters}) == 1
    assert len(hub.fetched("/cdn/")) == 2


def test_content_that_repositories_share_is_read_and_nothing_else(hub, published, tmp_path, caches):
    """huggingface_hub 2 moves what came through Xet to ``HF_HUB_CACHE/blobs`` and links to it."""
    path = pull("org/name").path
    blob = (path / ADAPTER).resolve()
    shared = caches / "hub" / "blobs" / "ab" / "abcd"
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    Adapter.from_pretrained("org/name", local_files_only=True)
    pull("org/name", tmp_path / "out", local_files_only=True)
    verify_bundle(tmp_path / "out")
    shared.rename(caches / "elsewhere")
    blob.unlink()
    blob.symlink_to(caches / "elsewhere")
    with pytest.raises(BundleError, match=r"is a link that leaves the bundle's folder"):
        Adapter.from_pretrained("org/name", local_files_only=True)
