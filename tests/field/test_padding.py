"""Padding changes a classifier's answer.

A text alone and the same text beside a longer one got other logits from MobileBERT and FNet, with
their attention masks and without one: https://github.com/huggingface/transformers/issues/9860 and
https://github.com/huggingface/transformers/issues/14359. Here the batch size decided which prompt
won.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse_index.models import load_model
from fuse_index.objectives import ClassifierLabel
from fuse_index.optimize import Budget, Problem, RandomSearch, RunOptions, Term, optimize
from tests.models import factory


@pytest.mark.parametrize("family", ["mobilebert", "fnet"])
def test_the_batch_size_does_not_decide_which_prompt_wins(tmp_path: Path, family: str) -> None:
    lm = load_model(str(factory.save_model("gpt2", tmp_path / "lm")), device="cpu")
    judge = load_model(str(factory.save_model(family, tmp_path / "judge")), device="cpu")
    problem = Problem(lm, [Term(ClassifierLabel(label="positive"), judge)])
    found = {
        (result.text, round(result.total, 4))
        for result in (
            optimize(
                problem,
                "a few words",
                method=RandomSearch(search_width=24),
                budget=Budget(steps=2),
                options=RunOptions(batch_size=size),
            )
            for size in (1, 5, 64)
        )
    }
    assert len(found) == 1
    text, loss = found.pop()
    logits = judge.encode_texts([text]).logits
    assert logits is not None
    assert loss == pytest.approx(float(-logits.log_softmax(-1)[0, 2]), abs=1e-3)
