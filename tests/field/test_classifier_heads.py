"""Heads that are no softmax over labels, and labels with digits for names.

A softmax over one output is always 1 (https://github.com/huggingface/transformers/pull/7726), a
regression's output is no probability at all
(https://github.com/huggingface/transformers/issues/33973), and of several labels at once each has a
sigmoid (https://github.com/huggingface/transformers/issues/38219). Here the loss of a reward model
was 0 for ever, and label "1" of "1", "2", "3" was taken for the second.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from fuse_index.cli import main as cli
from tests.models import factory


def save_head(folder: Path, labels: list[str], **options: Any) -> torch.Tensor:
    """Write a BERT with such a head; returns its logits for "a few words"."""
    tokenizer = factory.tokenizer_of("bert")
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **{**factory.SIZES, **options},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = transformers.BertForSequenceClassification(config).eval()
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with torch.no_grad():
        return net(**tokenizer("a few words", return_tensors="pt")).logits[0]


def first_loss(folder: Path, label: Any, capsys: pytest.CaptureFixture[str]) -> float | str:
    """The loss of "a few words" as a run tells it, or the line that refuses the run."""
    lm = folder.parent / "lm"
    if not lm.exists():
        factory.save_model("gpt2", lm)
    run = {
        "models": {"lm": str(lm), "judge": str(folder)},
        "objectives": [{"type": "label", "model": "judge", "label": label}],
        "initial": "a few words",
        "method": {"type": "random", "search_width": 2},
        "budget": {"steps": 1},
    }
    path, events = folder / "run.yaml", folder / "events.jsonl"
    path.write_text(yaml.safe_dump(run), encoding="utf-8")
    capsys.readouterr()
    try:
        code = cli.main(["optimize", str(path), "--events", str(events), "--json"])
    except SystemExit as error:
        code = int(error.code or 0)
    stderr = capsys.readouterr().err
    if code:
        assert (code, stderr.count("\n")) == (2, 1)
        return stderr
    told = [json.loads(line) for line in events.read_text().splitlines()]
    return float(next(item["total"] for item in told if item["event"] == "step"))


def test_a_head_of_one_output_has_no_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_head(tmp_path / "reward", ["reward"])
    found = first_loss(tmp_path / "reward", "reward", capsys)
    assert "one output for regression or rewards, which has no label; expected" in str(found)


def test_several_labels_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    multiple = "multi_label_classification"
    logits = save_head(tmp_path / "multi", ["toxic", "insult"], problem_type=multiple)
    expected = -float(torch.nn.functional.logsigmoid(logits)[0])
    found = first_loss(tmp_path / "multi", "toxic", capsys)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("label", [1, "1", 3, "3"])
def test_labels_named_by_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], label: int | str
) -> None:
    logits = save_head(tmp_path / "stars", ["1", "2", "3"])
    expected = -float(logits.log_softmax(-1)[int(label) - 1])
    assert first_loss(tmp_path / "stars", label, capsys) == pytest.approx(expected, abs=1e-4)
