"""Writing: golden bytes, determinism, overwriting, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fuse_index.bundle import read_bundle, verify_bundle, write_bundle
from fuse_index.errors import OptionError, ShapeError, StorageError
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable
from tests.bundle import sample

GOLDEN = Path(__file__).parent / "golden"


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.smoke
def test_bytes_are_those_of_the_golden_bundle(tmp_path):
    """A change here is a change of the format: raise FORMAT_VERSION unless old readers still work.

    The folder is written by ``write_bundle("tests/bundle/golden", sample.contents())``.
    """
    write_bundle(tmp_path / "bundle", sample.contents())
    assert files_of(tmp_path / "bundle") == files_of(GOLDEN)


def test_golden_bundle_is_read_with_the_values_it_was_made_of():
    bundle = read_bundle(GOLDEN, sample.SOURCE, sample.TARGET, parts=sample.ALL)
    assert bundle.table.words == sample.TABLE.words
    assert bundle.table.counts.tolist() == [40, 7, 3, 1, 0]
    assert bundle.table.source.equals(sample.TABLE.source)
    assert bundle.table.target.equals(sample.TABLE.target)
    assert bundle.word_groups.tolist() == [0, 1, 1, 0, 2]
    for name, tensor in sample.adapters().items():
        assert torch.equal(bundle.adapters[name], tensor)
    assert list(bundle.adapters) == list(sample.NAMES)


def test_same_contents_in_another_order_give_the_same_bytes(tmp_path):
    first = sample.contents()
    turned = sample.contents(
        adapters=dict(reversed(first.adapters.items())),
        options=dict(reversed(first.options.items())),
        left_out=dict(reversed(first.left_out.items())),
        quality={
            group: dict(reversed(figures.items()))
            for group, figures in reversed(first.quality.items())
        },
        groups=list(reversed(first.groups)),
    )
    write_bundle(tmp_path / "one", first)
    write_bundle(tmp_path / "two", turned)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_any_safetensors_reader_reads_the_files(tmp_path):
    write_bundle(tmp_path / "bundle", sample.contents())
    stored = load_file(tmp_path / "bundle" / "adapter.safetensors")
    assert {name: tensor.tolist() for name, tensor in stored.items()} == {
        f"adapter.{name}": tensor.tolist() for name, tensor in sample.adapters().items()
    }
    groups = load_file(tmp_path / "bundle" / "groups.safetensors")
    expected = torch.stack([sample.SOURCE_EMBEDDINGS[[2, 3]], sample.SOURCE_EMBEDDINGS[[4, 5]]])
    assert torch.equal(groups["source.2x1"], expected)


def test_manifest_records_size_and_checksum_of_every_file(tmp_path):
    manifest = write_bundle(tmp_path / "bundle", sample.contents())
    found = {name: len(data) for name, data in files_of(tmp_path / "bundle").items()}
    found.pop("manifest.json")
    assert {name: record.size for name, record in manifest.files.items()} == found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_adapter_dtypes_survive(tmp_path, dtype):
    adapters = {name: tensor.to(dtype) for name, tensor in sample.adapters().items()}
    write_bundle(tmp_path / "bundle", sample.contents(adapters=adapters))
    bundle = read_bundle(tmp_path / "bundle")
    for name, tensor in adapters.items():
        assert bundle.adapters[name].dtype is dtype
        assert torch.equal(bundle.adapters[name], tensor)


def test_non_contiguous_adapters_are_stored_by_value(tmp_path):
    adapters = sample.adapters()
    adapters["2x1"] = adapters["2x1"].transpose(1, 2).contiguous().transpose(1, 2)
    assert not adapters["2x1"].is_contiguous()
    write_bundle(tmp_path / "bundle", sample.contents(adapters=adapters))
    assert torch.equal(read_bundle(tmp_path / "bundle").adapters["2x1"], sample.ramp(2, 3, 2))


def test_identity_bundle_has_no_adapter_file(tmp_path):
    write_bundle(tmp_path / "bundle", sample.identity_contents())
    assert not (tmp_path / "bundle" / "adapter.safetensors").exists()
    bundle = read_bundle(tmp_path / "bundle", sample.SOURCE, sample.SOURCE)
    assert bundle.manifest.identity
    assert bundle.adapters == {}
    assert bundle.manifest.group_names == ("1x1", "2x2", "3x3")
    verify_bundle(tmp_path / "bundle")


def test_target_grouping(tmp_path):
    adapters = {"x1": sample.ramp(2, 3, 2), "fallback": sample.ramp(1, 3, 2)}
    write_bundle(tmp_path / "bundle", sample.contents(adapters=adapters, groups=None))
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.manifest.group_names == ("x1", "fallback")
    assert bundle.word_groups.tolist() == [0, 0, 0, 0, 1]


def test_index_files_are_copied_and_checked(tmp_path):
    index = tmp_path / "trained.faiss"
    index.write_bytes(b"index" * 1000)
    write_bundle(tmp_path / "bundle", sample.contents(index_files={"words.faiss": index}))
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.index_bytes("words.faiss").tobytes() == index.read_bytes()
    verify_bundle(tmp_path / "bundle")


def test_progress_adds_up(tmp_path):
    seen: list[tuple[int, int]] = []
    manifest = write_bundle(
        tmp_path / "bundle", sample.contents(), progress=lambda *step: seen.append(step)
    )
    total = sum(r.size for name, r in manifest.files.items() if name != "README.md")
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_existing_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(StorageError, match=r"bundle exists; expected .*; .*--overwrite"):
        write_bundle(tmp_path / "bundle", sample.contents())
    assert list((tmp_path / "bundle").iterdir()) == []


def test_overwrite_replaces_the_old_bundle(tmp_path):
    write_bundle(tmp_path / "bundle", sample.contents())
    write_bundle(tmp_path / "bundle", sample.contents(groups=None), overwrite=True)
    assert not (tmp_path / "bundle" / "groups.safetensors").exists()
    verify_bundle(tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_overwrite_replaces_a_damaged_bundle(tmp_path):
    write_bundle(tmp_path / "bundle", sample.contents())
    (tmp_path / "bundle" / "manifest.json").write_text("{")
    write_bundle(tmp_path / "bundle", sample.contents(), overwrite=True)
    verify_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    "names",
    [
        ["notes.txt"],
        ["README.md"],
        ["manifest.json", "README.md"],
        ["words.safetensors/x"],
        ["manifest.json", "words.safetensors", ".git/HEAD"],
    ],
)
def test_overwrite_never_replaces_what_is_not_a_bundle(tmp_path, names):
    folder = tmp_path / "precious"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    before = files_of(folder)
    hidden = sorted(path.name for path in folder.rglob(".*"))
    with pytest.raises(StorageError, match="is not a bundle, so it is not overwritten"):
        write_bundle(folder, sample.contents(), overwrite=True)
    assert files_of(folder) == before
    assert sorted(path.name for path in folder.rglob(".*")) == hidden


def test_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file"):
        write_bundle(tmp_path / "file", sample.contents(), overwrite=True)
    with pytest.raises(StorageError, match="is a file; expected a folder to write into"):
        write_bundle(tmp_path / "file" / "below", sample.contents())


def test_overwriting_through_a_link_replaces_what_it_points_to(tmp_path):
    write_bundle(tmp_path / "real", sample.contents())
    (tmp_path / "link").symlink_to("real")
    write_bundle(tmp_path / "link", sample.contents(groups=None), overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "real" / "groups.safetensors").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="is not writable"):
        write_bundle(tmp_path / "locked" / "bundle", sample.contents())


def test_full_disk_leaves_nothing(tmp_path):
    """RLIMIT_FSIZE makes a write fail half way, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(StorageError, match=r"no space left .*nothing was written"):
            write_bundle(tmp_path / "deep" / "bundle", sample.contents())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_the_bundle_that_was_to_be_overwritten(tmp_path):
    write_bundle(tmp_path / "bundle", sample.contents())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(StorageError):
            write_bundle(tmp_path / "bundle", sample.contents(groups=None), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files_of(tmp_path / "bundle") == files_of(GOLDEN)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_really_full_disk(tmp_path):
    """A file system of 64 KiB, where mounting is permitted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("mounting a small file system is not permitted here")
    try:
        # What is announced fits, what comes after it (card and manifest, whole blocks) does not.
        (disk / "ballast").write_bytes(bytes(48 << 10))
        with pytest.raises(StorageError, match="no space left"):
            write_bundle(disk / "bundle", sample.contents())
        assert [path.name for path in disk.iterdir()] == ["ballast"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_too_little_space_is_said_before_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        StorageError, match=r"has 0\.0 MB free; expected .* MB for the bundle; free"
    ):
        write_bundle(tmp_path / "bundle", sample.contents())
    assert list(tmp_path.iterdir()) == []


def test_error_while_streaming_leaves_nothing(tmp_path):
    def fail() -> None:
        raise RuntimeError("the model ran away")

    with pytest.raises(RuntimeError, match="ran away"):
        write_bundle(tmp_path / "bundle", sample.slow_groups(5, fail))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"adapters": {"1x1": sample.ramp(1, 3, 2)}}, OptionError, "'fallback' among them"),
        (
            {"adapters": sample.adapters() | {"x1": sample.ramp(1, 3, 2)}},
            OptionError,
            "one grouping",
        ),
        ({"adapters": sample.adapters() | {"2by1": sample.ramp(2, 3, 2)}}, OptionError, "'2by1'"),
        ({"identity": True}, OptionError, "identity bundle with adapters"),
        (
            {"adapters": sample.adapters() | {"2x1": sample.ramp(3, 3, 2)}},
            ShapeError,
            "adapter '2x1' has tube length 3, expected 2",
        ),
        (
            {"adapters": sample.adapters() | {"2x1": sample.ramp(2, 2, 3)}},
            ShapeError,
            r"adapter '2x1' has shape \(2, 2, 3\), expected \(k, 3, 2\)",
        ),
        (
            {"adapters": sample.adapters() | {"2x1": sample.ramp(2, 3, 2).int()}},
            ShapeError,
            "2x1 has dtype torch.int32",
        ),
        (
            {"adapters": sample.adapters() | {"2x1": sample.ramp(2, 3, 2) / 0}},
            ShapeError,
            "adapter '2x1' holds NaN or infinity",
        ),
        ({"groups": []}, ShapeError, "group tensors"),
        ({"corpus_sha256": "?"}, OptionError, "corpus_sha256"),
        ({"left_out": {"why": -1}}, OptionError, r"left_out\['why'\] is -1"),
        (
            {"source": dataclasses.replace(sample.SOURCE, vocabulary_size=5)},
            OptionError,
            r"'source.ids' has an id outside 0..4",
        ),
        (
            {"source": dataclasses.replace(sample.SOURCE, embedding_hash="")},
            OptionError,
            "source model has no embedding hash",
        ),
    ],
)
def test_contents_that_do_not_fit_are_refused(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        write_bundle(tmp_path / "bundle", sample.contents(**change))
    assert list(tmp_path.iterdir()) == []


def test_word_given_twice_is_refused(tmp_path):
    table = WordTable(
        ("a", "a"),
        np.ones(2, np.int64),
        Ragged.from_lists([[1], [2]]),
        Ragged.from_lists([[1], [2]]),
    )
    with pytest.raises(OptionError, match="holds a word twice"):
        write_bundle(tmp_path / "bundle", sample.contents(table=table, groups=None))


def test_numbers_that_json_lacks_become_null(tmp_path):
    quality = {"1x1": {"cosine": float("nan"), "words": np.int64(3), "error": np.float32(0.5)}}
    write_bundle(tmp_path / "bundle", sample.contents(quality=quality))
    stored = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["quality"]
    assert stored == {"1x1": {"cosine": None, "words": 3, "error": 0.5}}
