"""Mistakes in the files and flags of ``optimize``: one line, and exit code 2."""

from __future__ import annotations

import json

import pytest
import torch

from tests.cli.running import START, run

pytestmark = pytest.mark.usefixtures("use_cache")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objectives.label.label", "merry"], "no label 'merry'; expected one of 'negative', 'n"),
        (["--objectives.fluency.prefix", "a red star " * 60], "shorten the prefix or the suffix"),
        (["--tokens.deny_pattern", "."], "the filters leave none of 560 tokens"),
        (["--tokens.allow_pattern", "("], "allow_pattern '('"),
        (["--method.search_width", "many"], "method (gcg).search_width: 'many'; expected a whole"),
        (["--method.serch_width", "3"], "did you mean 'search_width'?"),
        (["--bugdet.steps", "3"], "section 'bugdet' is unknown"),
        (["--models.lm.model", "demo:gpt"], "model 'demo:gpt'; expected one of demo:lm"),
        (["--model", "lm"], "--model lm; expected NAME=MODEL"),
        (["--set", "budget"], "--set budget; expected FIELD=VALUE"),
        (["--steps", "0"], "budget: steps=0; expected at least 1"),
        (["--initial", " "], "initial: an empty text"),
        (["--source", "sentimen"], "did you mean 'sentiment'?"),
        (["--out", "nowhere/out.json"], "--out nowhere/out.json; expected a file in a folder"),
        (["--events", "nowhere/e"], "--events nowhere/e; expected a file in a folder"),
        (["--checkpoint", "nowhere/s"], "--checkpoint nowhere/s; expected a file in a folder"),
        (["--checkpoint-every", "0"], "checkpoint_every=0; expected at least 1"),
        (["--models.sentiment.adapter", "nowhere"], "adapter nowhere does not exist"),
        (["--adapters.words", "nowhere.txt"], "corpus nowhere.txt does not exist"),
    ],
)
def test_mistakes_get_one_line(capsys, file, flags, message):
    code, stdout, stderr = run(capsys, file, *flags, "--json")
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert message in json.loads(stdout)["error"]["message"]


def test_images_that_are_none(capsys, file, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image", encoding="utf-8")
    clip = ["--model", "clip=demo:clip", "--objective"]
    for image, message in ((text, "cannot be read as an image"), ("no.png", "does not exist")):
        objective = f"{{type: image, model: clip, images: {image}}}"
        code, _, stderr = run(capsys, file, *clip, objective)
        assert (code, stderr.count("\n")) == (2, 1)
        assert message in stderr


def test_an_adapter_of_other_models(capsys, file, cache):
    run(capsys, file, "--steps", 1)
    (bundle, *_) = [path for path in (cache / "adapters").iterdir() if path.is_dir()]
    flags = ["--models.sentiment.model", "demo:judge", "--models.sentiment.adapter", bundle]
    code, _, stderr = run(capsys, file, *flags)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "the target model is" in stderr
    assert "which the bundle was built for" in stderr


def test_a_prompt_that_cannot_survive(capsys, file, monkeypatch):
    from fuse_index.predict.target import SourceWords

    monkeypatch.setattr(
        SourceWords, "survives", lambda _self, rows: torch.zeros(len(rows)).bool().numpy()
    )
    code, stdout, stderr = run(capsys, file, "--steps", 20)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "survives re-tokenization; " in stderr
    assert "check_retokenization off" in stderr
    assert START in stdout
