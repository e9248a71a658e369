"""A limit of memory holds, or the build is refused: it never only warns."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fuse_index.build import Resources, build_bundle
from fuse_index.build.forecast import memory
from fuse_index.errors import OptionError
from fuse_index.words.corpus import counting


def test_without_the_extra_for_scale_a_limit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gigabytes were allowed, a warning came, and the build took more than four."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.setattr("fuse_index.build.stages.SMALL_BYTES", 0)
    assert not counting.has_engine()
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{i}" for i in range(50_000)), encoding="ascii")
    limit = Resources(max_memory=memory.resident_bytes() + (5 << 20))
    with pytest.raises(OptionError, match=r"words and more; pip install 'fuse-index\[scale\]'"):
        build_bundle("demo:lm", "demo:clip", tmp_path / "b", [text], resources=limit)
