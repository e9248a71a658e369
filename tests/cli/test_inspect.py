"""``fuse-index inspect``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fuse_index.bundle import read_manifest, write_bundle
from fuse_index.cli.main import main
from tests.bundle import sample

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(tmp_path) -> Path:
    write_bundle(tmp_path / "bundle", sample.contents())
    return tmp_path / "bundle"


def test_json_is_the_manifest_and_a_verdict(bundle, capsys):
    assert main(["inspect", str(bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["manifest"] == read_manifest(bundle).to_json()
    assert report["verified"] is True
    assert report["words"] == 5
    assert report["bundle"] == str(bundle)
    assert report["bytes"] == sum(
        path.stat().st_size for path in bundle.iterdir() if path.name != "manifest.json"
    )


def test_text_shows_models_groups_quality_and_files(bundle, capsys):
    assert main(["inspect", str(bundle)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [line.split() for line in out.splitlines()]
    assert ["model", "org/source-lm", "org/target-encoder"] in rows
    assert ["2x1", "2", "1", "0.500", "0.750"] in rows
    assert ["embeddings", "12", "x", "3", "9", "x", "2"] in rows
    assert any(row[:2] == ["words.safetensors", "950"] for row in rows)
    assert "1 words to fit on, fewer than min_words=32" in out
    assert out.splitlines()[-1].startswith("verified: every file is intact; written by fuse_index")


def test_damage_is_one_line_and_code_2(bundle, capsys):
    data = bytearray((bundle / "groups.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "groups.safetensors").write_bytes(data)
    assert main(["inspect", str(bundle)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "groups.safetensors is damaged: sha256" in err
    assert err.count("\n") == 1
    assert main(["inspect", str(bundle), "--no-verify"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("not verified")


def test_control_characters_do_not_reach_the_terminal(bundle, capsys):
    sample.edit_manifest(bundle, lambda m: m["fallbacks"].update(x="\x1b[2J[red]gone[/red]"))
    assert main(["inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[2J[red]gone[/red]" in out


def test_no_torch_is_needed(bundle):
    code = (
        "import sys; from fuse_index.cli.main import main\n"
        f"code = main(['inspect', {str(bundle)!r}, '--json'])\n"
        "assert code == 0 and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
