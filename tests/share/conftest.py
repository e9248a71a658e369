"""A Hub on the loopback interface, empty caches, and bundles to share."""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest

from fuse_index.bundle import write_bundle
from tests.bundle import sample
from tests.share.hub_server import WRITER, Hub


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path) -> Path:
    """Empty caches of our own and of the Hub."""
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path / "cache" / "ours"))
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "cache" / "token"))
    monkeypatch.setattr(hub_constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "cache" / "tokens"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """A Hub that may be asked, whose token is stored."""
    with Hub() as server:
        monkeypatch.setattr(hub_constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hub_constants, "DOWNLOAD_CHUNK_SIZE", 2)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        for module in ("file_download", "utils._http"):
            clock = importlib.import_module(f"huggingface_hub.{module}")
            monkeypatch.setattr(clock, "time", _Hurried)
        yield server


class _Hurried:
    """The module time, for retries that shall not wait."""

    time, monotonic, perf_counter = time.time, time.monotonic, time.perf_counter

    @staticmethod
    def sleep(_seconds: float) -> None:
        """Return at once."""


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A small bundle with group tensors and the files of an index."""
    path = tmp_path / "bundle"
    (tmp_path / "target.json").write_text("{}")
    contents = sample.contents(
        index_files={"target.json": tmp_path / "target.json"},
        indexes={"target": {"kind": "flat", "seconds": 0.001}},
    )
    write_bundle(path, contents)
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their path in it; hidden ones are left out."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*"))}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in found.items()
        if path.is_file() and not any(part.startswith(".") for part in name.parts)
    }


@pytest.fixture
def published(hub, bundle) -> str:
    """The commit of a bundle that is on the Hub as ``org/name``."""
    return hub.add("org/name", files_of(bundle) | {".gitattributes": b"", "LICENSE": b"MIT"})


def blobs(hub_cache) -> list[str]:
    """Return the names of the files that the Hub's cache holds."""
    return sorted(path.name for path in (hub_cache / "hub").rglob("blobs/*"))


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed (extra fsspec)")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(s3_server, monkeypatch) -> Iterator[str]:
    """A bucket's URL."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=name)
    yield f"s3://{name}"
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
