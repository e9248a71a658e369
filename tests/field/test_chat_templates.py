"""A chat model whose template has special tokens, the beginning of a text among them.

Markers given as plain text are cut to many ordinary tokens, and a text that has been rendered gets
its first token twice when it is tokenized once more. The same situation in a serving engine:
https://github.com/sgl-project/sglang/pull/888
"""

from __future__ import annotations

import pytest
import torch

from fuse_index.objectives import TargetContinuation
from fuse_index.optimize import Problem, Term
from fuse_index.optimize.survival import PromptCheck
from tests.models.pasting import talking

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("name", ["gpt2", "mistral", "gemma"])
def test_a_conversation_has_the_tokens_of_the_template(name: str) -> None:
    model = talking(name, TEMPLATE)
    messages = [{"role": "user", "content": "{prompt} Be brief."}]
    goal = TargetContinuation(messages=messages, target="a green dog")
    problem = Problem(model, [Term(goal, model)])
    ids = problem.encode("a few words")
    assert PromptCheck(problem)(ids)
    filled = [{"role": "user", "content": f"{problem.decode(ids)} Be brief."}]
    known = model.tokenizer.apply_chat_template(
        filled, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    (row,) = problem.losses[0].batch([list(ids)]).ids.tolist()
    assert row[: len(known)] == known
    assert known.count(model.tokenizer.bos_token_id) == 1
    labels = torch.tensor([[-100] * len(known) + row[len(known) :]])
    with torch.no_grad():
        expected = float(model.module(torch.tensor([row]), labels=labels).loss)
    assert float(problem.losses[0].score([list(ids)])) == pytest.approx(expected, abs=1e-4)


def test_markers_that_are_read_as_plain_text_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = talking("gpt2", TEMPLATE)
    plain = TargetContinuation(prefix="<|im_start|>user\n", target=" a green dog")
    Problem(model, [Term(plain, model), Term(plain, model)])
    assert caplog.text.count("'<|im_start|>' around the prompt is read as plain text") == 1
    caplog.clear()
    marked = TargetContinuation(
        prefix="<|im_start|>user\n", target=" a green dog", special_tokens=True
    )
    Problem(talking("gpt2", TEMPLATE), [Term(marked, model)])
    assert "plain text" not in caplog.text
