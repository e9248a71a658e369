"""The verbs ``build`` and ``validate`` as a user types them, mistakes included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuse_index.cli.main import main
from fuse_index.demo import DemoModel, model_name

TEXT = "a red circle is above two blue squares and a circle is left of the green square\n" * 3
LM, SENTIMENT = model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_build_then_inspect_then_validate(capsys, tmp_path, captions_file):
    out, plot = tmp_path / "bundle", tmp_path / "signal.png"
    build = ["build", LM, SENTIMENT, "--corpus", captions_file, "--out", out]
    code, stdout, _ = run(capsys, *build, "--min-count", 20, "--no-groups", "--json")
    assert code == 0
    built = json.loads(stdout)
    assert built["bundle"] == str(out)
    assert built["words"] > 500
    assert built["seconds"] == pytest.approx(sum(built["stages"].values()), abs=0.01)
    assert {"words", "relative_error", "cosine"} <= set(built["groups"]["1x1"])
    code, stdout, _ = run(capsys, "inspect", out, "--json")
    assert json.loads(stdout)["words"] == built["words"]
    check = ["validate", out, "--texts", captions_file, "--samples", 3, "--candidates", 20]
    code, stdout, _ = run(capsys, *check, "--loss", "similarity", "--plot", plot, "--json")
    assert code == 0
    report = json.loads(stdout)
    for name in ("adapter", "word", "random"):
        assert set(report["spearman"][name]) == {"mean", "stderr"}
        assert set(report["share"][name]) == {"10", "50", "100"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    code, _, stderr = run(capsys, *build)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "--overwrite" in stderr


def test_standard_input_is_a_corpus(capsys, tmp_path, monkeypatch):
    import io
    import sys

    stream = io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    out = tmp_path / "b"
    code, stdout, _ = run(capsys, "build", LM, SENTIMENT, "-c", "-", "--out", out, "--json")
    assert code == 0
    assert json.loads(stdout)["words"] == len(set(TEXT.split()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--corpus", "nowhere.txt"], "corpus nowhere.txt does not exist"),
        ([], "no corpus"),
        (["--corpus", "{text}", "--ridge", "much"], "--ridge much; expected a number"),
        (
            ["--corpus", "{text}", "--grouping", "both"],
            "--grouping both; expected one of pair, target",
        ),
        (["--corpus", "{text}", "--holdout", "1.5"], "holdout=1.5; expected a share"),
        (["--corpus", "{text}", "--max-tokens", "0"], "max_tokens=0; expected at least 1"),
        (["--corpus", "{text}", "--encoding", "klingon"], "encoding='klingon'"),
        (["--corpus", "{latin}"], "byte 0xe9 at byte offset 3"),
        (["--corpus", "{empty}"], "the corpus is empty"),
        (["--corpus", "{text}", "--min-count", "99"], "lower min_count (--min-count)"),
    ],
)
def test_mistakes_get_one_line_and_write_nothing(capsys, tmp_path, text, flags, message):
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    names = {name: str(tmp_path / f"{name}.txt") for name in ("text", "latin", "empty")}
    given = [flag.format(**names) for flag in flags]
    out = tmp_path / "bundle"
    code, stdout, stderr = run(capsys, "build", LM, SENTIMENT, *given, "--out", out, "--json")
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert message in json.loads(stdout)["error"]["message"]
    assert not out.exists()


def test_a_model_that_does_not_exist(capsys, tmp_path, text, minilm_dir):
    near = str(minilm_dir)[:-1]
    code, _, stderr = run(
        capsys, "build", near, minilm_dir, "--corpus", text, "--out", tmp_path / "b"
    )
    assert code == 2
    assert f"did you mean '{minilm_dir}'?" in stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.smoke
def test_validate_refuses_another_target(capsys, tmp_path, text):
    out = tmp_path / "b"
    run(capsys, "build", LM, SENTIMENT, "--corpus", text, "--out", out)
    check = ["validate", out, "--texts", text, "--samples", 2, "--candidates", 3]
    code, _, stderr = run(capsys, *check, "--target", LM)
    assert code == 2
    assert "the target model is" in stderr
    assert SENTIMENT in stderr
    code, _, stderr = run(capsys, *check, "--loss", "nll")
    assert code == 2
    assert "loss 'nll' of a target of kind 'classifier'" in stderr
    code, _, stderr = run(capsys, *check, "--loss", "anger")
    assert code == 2
    assert "expected one of similarity, label, nll" in stderr


def test_the_help_states_the_defaults_of_the_options(capsys):
    from fuse_index.adapter import FitOptions
    from fuse_index.build import DEFAULT_MIN_COUNT

    code, stdout, _ = run(capsys, "build", "--help")
    assert code == 0
    help_text = " ".join(stdout.split())
    assert f"fewer words use the fallback adapter. [default: {FitOptions().min_words}]" in help_text
    assert f"[default: {DEFAULT_MIN_COUNT}; 1 with --words]" in help_text
