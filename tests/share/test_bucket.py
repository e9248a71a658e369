"""Push to and pull from URLs: an S3 server on the loopback interface, and a store in memory."""

from __future__ import annotations

import sys
import uuid
from typing import Any, ClassVar

import pytest

from fuse_index import Adapter
from fuse_index.errors import (
    BundleError,
    MissingDependencyError,
    OptionError,
    RemoteError,
    StorageError,
)
from fuse_index.share import PushOptions, locate, pull, push
from fuse_index.share.bucket import Bucket
from tests.bundle import sample
from tests.share.conftest import files_of

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (extra fsspec)")

ADAPTER, GROUPS = "adapter.safetensors", "groups.safetensors"


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def hub_bucket(monkeypatch) -> str:
    """A bucket of the Hub, whose files are in memory: folders are implicit there."""
    from fsspec.implementations.memory import MemoryFileSystem

    class Buckets(MemoryFileSystem):
        protocol = "hf"
        store: ClassVar[dict[str, Any]] = {}
        tokens: ClassVar[list[Any]] = []

        def __init__(self, token=None, **options):
            super().__init__(**options)
            self.tokens.append(token)

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.removeprefix("hf://").strip("/")

        def makedirs(self, path, exist_ok=False):
            raise AssertionError("the Hub's buckets have no folders to make")

    Buckets.clear_instance_cache()
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", Buckets)
    return f"hf://buckets/org/{uuid.uuid4().hex}"


@pytest.fixture(params=["s3", "memory", "hub_bucket"])
def store(request) -> str:
    """A URL of either kind; nothing is there yet."""
    return request.getfixturevalue(request.param) + "/bundles/mine"


@pytest.mark.smoke
def test_what_is_pushed_is_what_is_pulled(store, bundle, tmp_path):
    pushed = push(bundle, store)
    assert pushed.url == store
    pulled = pull(store, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(bundle)
    assert pulled.revision == pushed.revision == pulled.manifest.to_json()["checksum"]


def test_the_token_goes_to_buckets_of_the_hub_alone(hub_bucket, memory, bundle, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "stored")
    buckets = fsspec.get_filesystem_class("hf")
    push(bundle, hub_bucket, token="secret")
    locate(hub_bucket, token="secret")
    assert buckets.tokens == ["secret"]  # one instance serves both
    locate(hub_bucket)
    assert buckets.tokens == ["secret", None]
    push(bundle, memory, token="secret")  # which a memory file system would refuse


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (lambda hub: hub.OfflineModeIsEnabled("x"), "the Hub may not be asked"),
        (lambda hub: hub.LocalTokenNotFoundError("x"), "no token of the Hub; run `hf auth login`"),
        (lambda hub: ConnectionError("refused"), "no connection to the Hub"),
        (lambda hub: FileNotFoundError("x"), "holds no bundle: no manifest.json"),
    ],
    ids=["offline", "no token", "no network", "no bundle"],
)
def test_what_goes_wrong_at_a_bucket_of_the_hub(hub_bucket, monkeypatch, raised, told):
    from huggingface_hub import errors

    def fail(*_, **__):
        raise raised(errors)

    monkeypatch.setattr(fsspec.get_filesystem_class("hf"), "open", fail)
    with pytest.raises((RemoteError, BundleError), match=told):
        locate(hub_bucket)


def test_the_file_system_of_hub_buckets_is_huggingface_hubs():
    bucket = Bucket("hf://buckets/org/name/folder")
    assert type(bucket._system).__name__ == "HfFileSystem"
    assert bucket._path("a") == "buckets/org/name/folder/a"


def test_the_manifest_comes_last(memory, bundle, monkeypatch):
    sent: list[str] = []
    send = Bucket._send

    def watch(self, path, name, record, report):
        sent.append(name)
        send(self, path, name, record, report)

    monkeypatch.setattr(Bucket, "_send", watch)
    push(bundle, memory)
    assert sent[-1] == "manifest.json"
    assert sorted(sent) == sorted(files_of(bundle))


def test_an_adapter_is_loaded_once_without_groups_and_index(memory, bundle, monkeypatch):
    push(bundle, memory)
    fetched: list[str] = []
    fetch = Bucket.fetch

    def watch(self, folder, member, record, report):
        fetched.append(member)
        fetch(self, folder, member, record, report)

    monkeypatch.setattr(Bucket, "fetch", watch)
    for _ in range(2):
        adapter = Adapter.from_pretrained(memory, sample.SOURCE, sample.TARGET)
        assert adapter["2x1"].tolist() == sample.adapters()["2x1"].tolist()
    assert sorted(fetched) == [ADAPTER, "words.safetensors"]
    pulled = pull(memory, groups=False, index=False)
    assert pulled.path == locate(memory)
    assert pulled.missing == (GROUPS, "index/target.json")


def test_a_full_pull_serves_later_loads_and_those_that_ask_nobody(memory, bundle):
    push(bundle, memory)
    with pytest.raises(RemoteError, match=r"the cache has no copy, and the network is not used"):
        locate(memory, local_files_only=True)
    pulled = pull(memory)
    assert locate(memory) == locate(memory, local_files_only=True) == pulled.path
    fsspec.filesystem("memory").rm(memory.removeprefix("memory:/"), recursive=True)
    assert pull(memory, local_files_only=True).path == pulled.path
    Adapter.from_pretrained(memory, local_files_only=True)
    with pytest.raises(BundleError, match=r"holds no bundle: no manifest.json"):
        locate(memory)


def test_damage_in_the_cache_is_healed_by_a_pull(memory, bundle):
    push(bundle, memory)
    path = pull(memory).path
    (path / ADAPTER).write_bytes(b"x")
    with pytest.raises(BundleError, match=r"adapter.safetensors is truncated"):
        Adapter.from_pretrained(memory)
    assert pull(memory).path == path
    Adapter.from_pretrained(memory)


def test_a_bundle_is_replaced_only_if_asked(store, bundle, tmp_path):
    push(bundle, store)
    with pytest.raises(StorageError, match=r"holds a bundle; expected an empty place; .*overwrite"):
        push(bundle, store)
    push(bundle, store, PushOptions(groups=False, index=False, overwrite=True, license="mit"))
    pull(store, tmp_path / "out")
    assert set(files_of(tmp_path / "out")) == set(files_of(bundle)) - {GROUPS, "index/target.json"}
    system, root = fsspec.core.url_to_fs(store)
    system.invalidate_cache()
    names = [path.removeprefix(root).lstrip("/") for path in system.find(root)]
    assert set(names) == set(files_of(tmp_path / "out"))


def test_a_push_that_fails_leaves_the_old_bundle(store, bundle, tmp_path, monkeypatch):
    push(bundle, store)
    send, before = Bucket._send, files_of(bundle)

    def fail(self, path, name, record, report):
        if name.endswith(GROUPS):
            raise ConnectionResetError("cut")
        send(self, path, name, record, report)

    monkeypatch.setattr(Bucket, "_send", fail)
    sample.edit_manifest(bundle, lambda value: value["options"].update(seed=1))
    with pytest.raises(RemoteError, match=r"cannot be written.*\(ConnectionResetError: cut\)"):
        push(bundle, store, PushOptions(overwrite=True))
    pull(store, tmp_path / "out")
    assert files_of(tmp_path / "out") == before
    system, root = fsspec.core.url_to_fs(store)
    system.invalidate_cache()
    assert len(system.find(root)) == len(before)


def test_a_first_push_that_fails_can_be_made_again(memory, bundle, monkeypatch):
    send = Bucket._send

    def fail(self, path, name, record, report):
        if name.endswith(GROUPS):
            raise ConnectionResetError("cut")
        send(self, path, name, record, report)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "_send", fail)
        with pytest.raises(RemoteError, match=r"cannot be written"):
            push(bundle, memory)
    with pytest.raises(BundleError, match=r"holds no bundle"):
        locate(memory)
    push(bundle, memory)
    assert locate(memory).is_dir()


def test_other_peoples_files_are_left_alone(store, bundle):
    system, root = fsspec.core.url_to_fs(store)
    system.pipe_file(f"{root}/notes.txt", b"mine")
    with pytest.raises(StorageError, match=r"holds 'notes.txt', which is not a bundle's file"):
        push(bundle, store, PushOptions(overwrite=True))
    system.rm_file(f"{root}/notes.txt")
    system.pipe_file(f"{root}/manifest.json", b'{"name": "an app"}')
    with pytest.raises(StorageError, match=r"holds a manifest.json that is not a bundle's"):
        push(bundle, store, PushOptions(overwrite=True))


class _Cutting:
    """A stream that breaks after some bytes."""

    def __init__(self, stream: Any, after: int) -> None:
        self.stream, self.left = stream, after

    def __enter__(self) -> _Cutting:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def seek(self, position: int) -> None:
        self.stream.seek(position)

    def read(self, size: int) -> bytes:
        if self.left == 0:
            raise ConnectionResetError("connection reset by peer")
        data = self.stream.read(min(size, self.left))
        self.left -= len(data)
        return data


def test_cut_connections_are_taken_up_where_they_stopped(
    store, bundle, tmp_path, monkeypatch, caches
):
    push(bundle, store)
    system, _ = fsspec.core.url_to_fs(store)
    opened, cuts, real = [], [100, 60, 0], type(system).open

    def opening(self, path, mode="rb", **options):
        stream = real(self, path, mode, **options)
        if not path.endswith(GROUPS) or mode != "rb":
            return stream
        opened.append(path)
        return _Cutting(stream, cuts.pop(0) if cuts else -1)

    monkeypatch.setattr(type(system), "open", opening)
    with pytest.raises(RemoteError, match=r"ConnectionResetError: connection reset by peer"):
        pull(store, tmp_path / "out")
    assert len(opened) == 3
    (part,) = caches.rglob("*.part")
    assert part.read_bytes() == (bundle / GROUPS).read_bytes()[:160]
    assert not list(tmp_path.glob("*out*"))
    pull(store, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(bundle)
    assert not list(caches.rglob("*.part"))


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_what_was_kept_is_not_trusted(memory, bundle, tmp_path, size):
    push(bundle, memory)
    (locate(memory) / f".{GROUPS}.part").write_bytes(b"\0" * size)
    pull(memory, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(bundle)


@pytest.mark.parametrize("member", [ADAPTER, "words.safetensors", "index/target.json"])
def test_an_altered_byte(store, bundle, tmp_path, member):
    push(bundle, store)
    system, root = fsspec.core.url_to_fs(store)
    data = system.cat_file(f"{root}/{member}")
    system.pipe_file(f"{root}/{member}", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=rf"{member} is damaged: sha256 .* by the manifest"):
        pull(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    system.pipe_file(f"{root}/{member}", data + b"\0" * 100)
    with pytest.raises(BundleError, match=rf"{member} has {len(data) + 100} bytes"):
        pull(store)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("nosuch://x/y", RemoteError, "fsspec knows no such protocol"),
        ("s3://", OptionError, "is no place for a bundle"),
        ("s3://bucket/../other", OptionError, "is no place for a bundle"),
        ("simplecache::s3://bucket/x", OptionError, "chain of file systems"),
        ("memory://nothing/here", BundleError, "memory://nothing/here holds no bundle"),
    ],
)
def test_bad_urls(url, error, message):
    with pytest.raises(error, match=message):
        locate(url)


def test_a_package_that_is_missing_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fuse-index\[fsspec\]'"):
        locate("gs://bucket/x")


def test_passwords_are_not_shown(monkeypatch):
    with pytest.raises((RemoteError, MissingDependencyError)) as info:
        locate("nosuch://user:secret@host/x?token=secret")
    assert "secret" not in str(info.value)
    assert "nosuch://host/x" in str(info.value)


def test_private_is_for_the_hub(memory, bundle):
    with pytest.raises(OptionError, match=r"--private for memory://.*; expected a Hub id"):
        push(bundle, memory, PushOptions(private=True))
