"""A prompt between texts, with a tokenizer that puts a space before every text it is given.

Context and continuation tokenized apart, each got a leading ``▁``: the loss told was of a text that
nobody can paste. The same situation in an optimizer of prompts and in an evaluation harness:
https://github.com/GraySwanAI/nanoGCG/issues/24
https://github.com/EleutherAI/lm-evaluation-harness/pull/531
"""

from __future__ import annotations

import pytest
import torch

from fuse_index.objectives import TargetContinuation
from fuse_index.optimize import Problem, Term
from tests.models.pasting import pasted, tokenizer_of


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma", "gpt2"])
def test_the_loss_is_that_of_the_whole_text(name: str) -> None:
    model = pasted(name)
    goal = TargetContinuation(prefix="Write of", suffix=" please:", target=" a green dog")
    problem = Problem(model, [Term(goal, model)])
    ids = problem.encode("two children")
    (text,) = problem.full_texts(ids).values()
    assert text == "Write of two children please: a green dog"
    whole = torch.tensor([tokenizer_of(name)(text)["input_ids"]])
    known = tokenizer_of(name)("Write of two children please:")["input_ids"]
    labels = whole.clone()
    labels[:, : len(known)] = -100
    with torch.no_grad():
        expected = float(model.module(whole, labels=labels).loss)
    assert float(problem.losses[0].score([list(ids)])) == pytest.approx(expected, abs=1e-4)
