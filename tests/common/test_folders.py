"""One rule for the files of a folder: hidden ones, links, loops, special files, nesting."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.common import folders
from fuse_index.common.folders import list_files, visible_files


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, encoding="utf-8")


def names(root: Path, found: folders.FolderFiles) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found.files]


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "._a.txt", ".DS_Store", ".git/b.txt", "c/d.txt", "c/.d.txt.swp")
    found = list_files(tmp_path, nested=True)
    assert names(tmp_path, found) == ["a.txt", "c/d.txt"]
    assert found.passed_over == {"hidden": 4}
    assert names(tmp_path / ".git", list_files(tmp_path / ".git", nested=True)) == ["b.txt"]


def test_folders_are_entered_where_that_is_wanted(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b/c.png", "d/e/f.png")
    assert names(tmp_path, list_files(tmp_path, nested=True)) == ["a.png", "b/c.png", "d/e/f.png"]
    flat = list_files(tmp_path, nested=False)
    assert names(tmp_path, flat) == ["a.png"]
    assert flat.folders == 2
    assert str(flat) == "2 folders in it"


def test_suffixes_are_compared_in_lower_case(tmp_path: Path) -> None:
    make(tmp_path, "a.PNG", "b.png.txt", "png", "c.jpeg")
    found = list_files(tmp_path, nested=True, suffixes=(".png", ".jpeg"))
    assert names(tmp_path, found) == ["a.PNG", "c.jpeg"]
    assert not found.passed_over


def test_links_are_followed_and_what_they_lead_to_is_read_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make(tmp_path, "elsewhere/x.txt", "elsewhere/deep/y.txt", "alone.txt")
    make(root, "m/a.txt")
    (root / "0-own").symlink_to(root / "m")  # sorts first; the files keep their own place
    (root / "1-out").symlink_to(tmp_path / "elsewhere")
    (root / "2-out").symlink_to(tmp_path / "elsewhere")
    (root / "3-inner").symlink_to(tmp_path / "elsewhere/deep")
    (root / "4-file").symlink_to(tmp_path / "alone.txt")
    (root / "5-file").symlink_to(tmp_path / "alone.txt")
    (root / "6-own").symlink_to(root / "m/a.txt")
    (root / "7-loop").symlink_to(root)
    (root / "8-up").symlink_to(tmp_path)
    (tmp_path / "elsewhere/back").symlink_to(root)
    found = list_files(root, nested=True)
    expected = ["1-out/deep/y.txt", "1-out/x.txt", "4-file", "m/a.txt"]
    assert names(root, found) == expected
    assert found.passed_over == {"linked twice": 8}
    again = list_files(tmp_path / "root", nested=False)
    assert names(root, again) == ["4-file", "6-own"]


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    make(tmp_path / "real", "a.txt", "b/c.txt")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = list_files(tmp_path / "link", nested=True)
    assert names(tmp_path / "link", found) == ["a.txt", "b/c.txt"]


def test_what_is_no_regular_file_is_counted(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    found = list_files(tmp_path, nested=True)
    assert names(tmp_path, found) == ["a.txt"]
    assert sum(found.passed_over.values()) == 4
    assert str(found) == "3 broken links, 1 not a regular file"


def test_a_folder_in_it_that_cannot_be_listed_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.txt", "locked/b.txt")
    listing = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr("os.scandir", refuse)
    found = list_files(tmp_path, nested=True)
    assert names(tmp_path, found) == ["a.txt"]
    assert found.passed_over == {"not readable": 1}
    with pytest.raises(PermissionError):
        list_files(tmp_path / "locked", nested=True)


@given(st.lists(st.lists(st.sampled_from("ab."), min_size=1, max_size=3), max_size=12))
def test_without_links_it_is_what_the_system_lists(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for item in parts:
        path = root.joinpath(*(f"{part}d" for part in item[:-1]), f"{item[-1]}f")
        make(root, path.relative_to(root).as_posix())
    expected = [path for path in sorted(root.rglob("*")) if path.is_file()]
    visible = [p for p in expected if not any(n[0] == "." for n in p.relative_to(root).parts)]
    assert list(list_files(root, nested=True).files) == visible
    assert list(list_files(root, nested=False).files) == [p for p in visible if p.parent == root]


def test_what_is_passed_over_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "a.txt", ".b", "c/d.txt")
    with caplog.at_level(logging.WARNING, logger="fuse_index"):
        for _ in range(2):
            folders.tell_passed_over(tmp_path, list_files(tmp_path, nested=False), "name c too")
        folders.tell_passed_over(tmp_path / "c", list_files(tmp_path / "c", nested=True))
    said = "1 files to read; passed over: 1 hidden, 1 folder in it (name c too)"
    assert caplog.messages == [f"{tmp_path}: {said}"]


def test_visible_files(tmp_path: Path) -> None:
    make(tmp_path, "b.safetensors", "a.safetensors", "._a.safetensors", "c.bin", "d.safetensors/e")
    assert [path.name for path in visible_files(tmp_path, "*.safetensors")] == [
        "a.safetensors",
        "b.safetensors",
    ]
