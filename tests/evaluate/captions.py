"""What the tests of caption metrics share."""

from __future__ import annotations

import gzip
import shutil
import stat
from itertools import islice
from pathlib import Path

import pytest

needs_java = pytest.mark.skipif(
    shutil.which("java") is None, reason="no Java runtime on the PATH (optional)"
)


def require_metrics() -> None:
    """Skip where the extra is not installed."""
    pytest.importorskip(
        "pycocoevalcap.bleu.bleu", reason="pycocoevalcap is not installed (extra 'metrics')"
    )


def hide_java(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Leave nothing on the PATH."""
    monkeypatch.setenv("PATH", str(folder))


def shorten_paraphrases(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let METEOR read a thousand of its paraphrases: all of them take ten seconds."""
    from pycocoevalcap.meteor import meteor

    original = Path(meteor.__file__).parent
    table = Path("data", "paraphrase-en.gz")
    (folder / "data").mkdir(parents=True)
    shutil.copy(original / meteor.METEOR_JAR, folder)  # Java looks beside the true file
    with gzip.open(original / table) as whole, gzip.open(folder / table, "wb") as part:
        part.writelines(islice(whole, 3000))  # three lines each
    monkeypatch.setattr(meteor, "__file__", str(folder / "meteor.py"))


def fake_java(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Put a program named java first on the PATH; it answers ``-version`` by itself."""
    folder.mkdir(exist_ok=True)
    path = folder / "java"
    path.write_text(f'#!/bin/sh\nif [ "$1" = -version ]; then exit 0; fi\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
