"""The names of the packaged models mean the same in Python, in files and in every verb."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse_index.build import build_bundle
from fuse_index.cli.main import main
from fuse_index.run import assemble, read_run


def test_a_run_file_of_the_docs_works_from_python() -> None:
    """``demo:lm`` of docs/run.md worked in the command line only."""
    objective = {"type": "fluency", "model": "lm"}
    value = {"models": {"lm": "demo:lm"}, "objectives": [objective], "initial": {"length": 4}}
    ready = assemble(read_run(value | {"budget": {"steps": 1}, "method": {"type": "random"}}))
    assert ready.problem.source.name == "demo:lm"
    assert ready.run().text


def test_a_bundle_of_packaged_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From Python and from the command line: the same bytes."""
    text = tmp_path / "text.txt"
    text.write_text("a red circle above a blue square\n" * 3)
    build_bundle("demo:lm", "demo:clip", tmp_path / "a", [text])
    assert main(["build", "demo:lm", "demo:clip", "-c", str(text), "-o", str(tmp_path / "b")]) == 0
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert main(["verify", str(tmp_path / "b"), "--rebuild", "-c", str(text)]) == 0
    capsys.readouterr()
