"""Killed builds: never half a bundle, leftovers cleaned up, live builds left alone."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest

from fuse_index.bundle import read_bundle, staging, verify_bundle, write_bundle
from fuse_index.errors import StorageError
from tests.bundle import sample

LEFTOVER = ".bundle.building-0123456789abcdef"


def build_forever(path: str, began) -> None:
    """Overwrite a bundle again and again, slowly; runs in a process that gets killed."""
    contents = sample.slow_groups(20, lambda: time.sleep(0.0005))
    began.set()
    while True:
        write_bundle(path, contents, overwrite=True)


def test_killed_at_random_moments_there_is_never_half_a_bundle(tmp_path):
    """SIGKILL 20 times, while the first bundle is written and while it is replaced."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.bundle.sample", "fuse_index.bundle"])
    random_ = random.Random(0)
    path = tmp_path / "bundle"
    whole = leftovers = 0
    for turn in range(20):
        if turn % 4 == 0 and path.exists():
            path.rename(tmp_path / f"done-{turn}")  # the next kill may find no bundle at all
        began = context.Event()
        process = context.Process(target=build_forever, args=(str(path), began))
        process.start()
        assert began.wait(60)
        time.sleep(random_.uniform(0, 0.12))
        process.kill()
        process.join()
        if path.exists():
            verify_bundle(path)
            assert len(read_bundle(path).table) == 20
            whole += 1
        left = [p.name for p in tmp_path.iterdir() if staging.is_staging_name(p.name)]
        assert len(left) <= 2
        leftovers += bool(left)
    assert leftovers >= 5, "the kills did not hit the writing"
    assert whole >= 5, "the kills did not hit the replacing"
    write_bundle(path, sample.contents(), overwrite=True)
    verify_bundle(path)
    assert not [p.name for p in tmp_path.iterdir() if staging.is_staging_name(p.name)]


def test_leftovers_of_the_same_place_only_are_removed(tmp_path):
    for name in (LEFTOVER, ".other.building-0123456789abcdef", ".bundle.building-notours"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.safetensors").write_text("half")
    write_bundle(tmp_path / "bundle", sample.contents())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".bundle.building-notours",
        ".other.building-0123456789abcdef",
        "bundle",
    ]


def meet_a_bundle_made_meanwhile(output: Path, first: Path) -> None:
    with staging.staged(output) as second:
        output.mkdir()
        (output / "meanwhile").write_text("by somebody else")
        assert second.exists()
        assert first.exists()


def test_a_live_build_is_left_alone(tmp_path):
    output = tmp_path / "bundle"
    with staging.staged(output) as folder:
        (folder / "half").write_text("x")
        staging.recover(output)
        assert (folder / "half").exists()
        with pytest.raises(StorageError, match="exists; expected"):
            meet_a_bundle_made_meanwhile(output, folder)
        assert (output / "meanwhile").exists()
        (output / "meanwhile").unlink()
        output.rmdir()
    assert (output / "half").exists()


def test_a_bundle_set_aside_is_put_back(tmp_path):
    """What a kill between the two renames of a system without an atomic swap leaves."""
    write_bundle(tmp_path / "bundle", sample.contents())
    (tmp_path / "bundle").rename(tmp_path / ".bundle.replaced-0123456789abcdef")
    (tmp_path / LEFTOVER).mkdir()
    staging.recover(tmp_path / "bundle")
    verify_bundle(tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_overwriting_without_an_atomic_swap(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "_exchange", lambda first, second: False)
    write_bundle(tmp_path / "bundle", sample.contents())
    write_bundle(tmp_path / "bundle", sample.contents(groups=None), overwrite=True)
    assert "groups.safetensors" not in verify_bundle(tmp_path / "bundle").files
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_failed_second_rename_puts_the_old_bundle_back(tmp_path, monkeypatch):
    write_bundle(tmp_path / "bundle", sample.contents())
    real, calls = os.rename, []

    def rename(source, target) -> None:
        calls.append(Path(source).name)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(staging, "_exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(StorageError, match="no space left"):
        write_bundle(tmp_path / "bundle", sample.contents(groups=None), overwrite=True)
    assert len(calls) == 3
    assert "groups.safetensors" in verify_bundle(tmp_path / "bundle").files
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_file_systems_without_locks_keep_young_leftovers(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "lock_folder", lambda folder, wait: None)
    (tmp_path / LEFTOVER).mkdir()
    staging.recover(tmp_path / "bundle")
    assert (tmp_path / LEFTOVER).exists()
    os.utime(tmp_path / LEFTOVER, (0, 0))
    staging.recover(tmp_path / "bundle")
    assert not (tmp_path / LEFTOVER).exists()


def test_swap_is_atomic_on_linux(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    if not staging._exchange(tmp_path / "one", tmp_path / "two"):
        pytest.skip("this system cannot swap two folders in one step")
    assert (tmp_path / "one" / "two").exists()
    assert (tmp_path / "two" / "one").exists()
