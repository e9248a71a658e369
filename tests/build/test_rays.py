"""Builds on a real Ray cluster: the result of one process, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from fuse_index.build import BuildOptions, Resources, build_bundle, rays
from fuse_index.build.rays import RayExecutor
from fuse_index.cli.main import main
from fuse_index.errors import ClusterError, CorpusError, MissingDependencyError, OptionError
from fuse_index.words.corpus.words import CorpusOptions
from tests.build.helpers import digest, load_once, make_shards_small

SMALL = BuildOptions(corpus=CorpusOptions(min_count=2))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_address_that_does_not_answer_is_one_line(capsys, tmp_path, captions_file, gpt2_dir):
    pytest.importorskip("ray")
    address = f"127.0.0.1:{free_port()}"
    arguments = ["build", gpt2_dir, gpt2_dir, "-c", captions_file, "-o", tmp_path / "b"]
    start = time.monotonic()
    code = main([str(item) for item in [*arguments, "--ray", address]])
    stderr = capsys.readouterr().err
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"no Ray cluster answers at {address} (Connection refused)" in stderr
    assert time.monotonic() - start < 20
    assert not list(tmp_path.iterdir())


def test_somebody_else_at_the_address(monkeypatch):
    ray = pytest.importorskip("ray")

    def refuse(**_):
        raise RuntimeError("version mismatch:\n GCS says no")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"ray://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"answers at ray://.*version mismatch: GCS says no"):
            RayExecutor(address).__enter__()


def test_what_is_no_address():
    pytest.importorskip("ray")
    with pytest.raises(OptionError, match=r"--ray tomorrow; expected HOST:PORT"):
        RayExecutor("tomorrow").__enter__()


def test_without_ray_the_line_says_what_to_install(capsys, tmp_path, captions_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fuse-index\[ray\]'"):
        RayExecutor()
    arguments = ["build", "a", "b", "-c", str(captions_file), "-o", str(tmp_path / "b"), "--ray"]
    assert main(arguments) == 2
    stderr = capsys.readouterr().err
    assert "--ray needs Ray" in stderr
    assert stderr.count("\n") == 1


@pytest.fixture(scope="module")
def workers():
    """A cluster of three worker processes on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def build(gpt2_dir, minilm_dir, captions_file, wikitext_file, monkeypatch):
    make_shards_small(monkeypatch)
    load_once(monkeypatch)

    def run(output, corpus=(captions_file, wikitext_file), **given):
        return build_bundle(
            str(gpt2_dir),
            str(minilm_dir),
            output,
            list(corpus),
            options=SMALL,
            resources=Resources(**given),
        )

    return run


def worker_pids(*names: str) -> list[int]:
    """Processes of Ray's workers that run one of these functions now, by their titles."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and any(name.encode() in title for name in names):
                found.append(int(entry.name))
    return found


class Killer(threading.Thread):
    """Kills workers while they run one of some functions.

    Args:
        names: of the functions.
        most: how many workers.
    """

    def __init__(self, *names: str, most: int) -> None:
        super().__init__(daemon=True)
        self._names, self._most = names, most
        self.killed: list[int] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set() and len(self.killed) < self._most:
            for pid in worker_pids(*self._names)[:1]:
                if pid not in self.killed:
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(pid)
            time.sleep(0.02)


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_one_process(build, workers, tmp_path):
    build(tmp_path / "here")
    build(tmp_path / "there", ray="auto")
    assert digest(tmp_path / "there") == digest(tmp_path / "here")
    assert workers.is_initialized()  # it was not ours to end


@pytest.mark.slow
@pytest.mark.parametrize("function", ["count_task", "tabulate_task", "sum_task"])
def test_the_loss_of_a_worker_changes_nothing(build, workers, tmp_path, function):
    build(tmp_path / "here")
    killer = Killer(function, most=1)
    killer.start()
    build(tmp_path / "there", ray="auto")
    killer.over.set()
    killer.join()
    assert len(killer.killed) == 1
    assert digest(tmp_path / "there") == digest(tmp_path / "here")


@pytest.mark.slow
def test_a_worker_that_keeps_dying_is_one_clear_line_and_nothing_is_lost(
    build, workers, tmp_path, monkeypatch
):
    monkeypatch.setattr(rays, "_RETRIES", 1)  # a new worker takes seconds to start
    build(tmp_path / "here")
    killer = Killer("sum_task", "tabulate_task", most=10**6)
    killer.start()
    try:
        with pytest.raises(ClusterError, match="lost a worker for good") as caught:
            build(tmp_path / "there", ray="auto")
    finally:
        killer.over.set()
        killer.join()
    assert "\n" not in str(caught.value)
    assert "--resume" in str(caught.value)
    build(tmp_path / "there", resume=True)  # without the cluster
    assert digest(tmp_path / "there") == digest(tmp_path / "here")


@pytest.mark.slow
def test_an_unreadable_shard_is_named_by_the_worker(build, workers, tmp_path, captions_file):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine " * 9 + b"caf\xe9")
    with pytest.raises(CorpusError, match=r"bad\.txt is not utf-8: byte 0xe9 at byte offset 48"):
        build(tmp_path / "b", corpus=[captions_file, bad], ray="auto")
    with pytest.raises(OptionError, match="--ray with standard input"):
        build(tmp_path / "b", corpus=["-"], ray="auto")
