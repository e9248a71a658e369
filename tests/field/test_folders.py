"""Folders as they lie on people's disks, and corpora that are no files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuse_index.demo import Split, draw, make_scene
from fuse_index.errors import CorpusError
from fuse_index.run import find_images
from fuse_index.words.corpus.words import count_words


def test_what_macos_leaves_beside_a_picture_is_no_picture(tmp_path: Path) -> None:
    """A disk that a Mac wrote has a hidden ``._a.png`` beside every ``a.png``.

    https://github.com/photoprism/photoprism/issues/2314
    """
    draw(make_scene(Split.TEST, 0)).save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(64))
    assert find_images([tmp_path]) == [str(tmp_path / "a.png")]


def test_a_linked_folder_is_part_of_a_corpus(tmp_path: Path) -> None:
    """Texts on another disk, linked into the corpus, were left out without a word."""
    for name in ("texts", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere/b.txt").write_text("green grass\n")
    (tmp_path / "texts/linked").symlink_to(tmp_path / "elsewhere")
    assert sorted(count_words([tmp_path / "texts"]).words) == ["grass", "green"]


def test_a_pipe_whose_writer_has_gone_is_refused_at_once(tmp_path: Path) -> None:
    """Opening it would wait for ever; what is piped goes through standard input."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match=r"not a regular file.*pipe it into -"):
        count_words([tmp_path / "pipe"])
    code = "from fuse_index.words.corpus.words import count_words as c; print(*c(['-']).words)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, input=b"in", capture_output=True)
    assert done.stdout == b"in\n"
