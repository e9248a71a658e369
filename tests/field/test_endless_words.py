"""A corpus with a part that has no white space: base64, a dump, a disk image."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fuse_index.words.corpus.words import count_words


def test_a_word_without_end_is_left_out_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged text made single words of megabytes, and tokenizing them took for ever.

    https://github.com/huggingface/tokenizers/issues/86
    """
    path = tmp_path / "text.txt"
    path.write_text("a dog\n" + "x" * 5_000_000 + "\nruns\n", encoding="ascii")
    with caplog.at_level(logging.WARNING, logger="fuse_index"):
        assert sorted(count_words([path]).words) == ["a", "dog", "runs"]
    assert "1 words of more than 8192 characters are left out" in caplog.text
