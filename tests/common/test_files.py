"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fuse_index.common.files import is_special, replacing, write_atomically, write_out

ROOT = Path(__file__).parents[2]


def test_a_file_is_written_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b.bin"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.bin"]


@pytest.mark.smoke
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path) as part:
            part.write_bytes(b"ha")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        write_half()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_old_file_stands_until_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert part.parent == path.parent
    assert path.read_bytes() == b"new"


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "real").mkdir()
    for name in ("old", "new"):  # the second one leads to nothing yet
        (tmp_path / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "old").write_bytes(b"old")
    for name in ("old", "new"):
        write_out(tmp_path / name, b"result")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "real" / name).read_bytes() == b"result"
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["new", "old"]


def test_links_in_a_circle_are_an_error_and_stay(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links"):
        write_out(tmp_path / "a", b"result")
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("link", [False, True])
def test_a_fifo_is_written_to(tmp_path, link):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    place = tmp_path / "link" if link else path
    if link:
        place.symlink_to(path)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    write_out(place, b"result" * 100_000)
    reader.join(60)
    assert found == [b"result" * 100_000]
    assert is_special(place)


@pytest.mark.parametrize(("name", "fails"), [("null", False), ("full", True)])
def test_a_device_is_written_to(tmp_path, name, fails):
    """A node of the test, which root could replace."""
    path = tmp_path / name
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.stat(f"/dev/{name}").st_rdev)
        path.open("wb").close()
    except OSError:
        pytest.skip("no devices can be made here")
    if fails:
        with pytest.raises(OSError, match="No space left"):
            write_out(path, b"result")
    else:
        write_out(path, b"result")
    assert stat.S_ISCHR(path.stat().st_mode)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_the_own_output_is_gone_on_with(tmp_path):
    """``--out /dev/stdout > file`` as a shell gives it: the file is not replaced."""
    program = (
        "import sys; from fuse_index.common.files import write_out; print('before');"
        "write_out('/dev/stdout', b'result\\n'); print('after')"
    )
    with (tmp_path / "file").open("wb") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, check=True, cwd=ROOT)
    assert (tmp_path / "file").read_text() == "before\nresult\nafter\n"


def test_a_folder_is_no_place_for_a_file(tmp_path):
    assert not is_special(tmp_path)
    assert not is_special(tmp_path / "nothing")
    with pytest.raises(OSError, match="directory"):
        write_out(tmp_path, b"result")
    assert list(tmp_path.iterdir()) == []
