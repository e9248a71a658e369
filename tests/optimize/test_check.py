"""Prompts pasted as text: what models write, which label they predict, what they find similar."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fuse_index.models import Model
from fuse_index.objectives import ClassifierLabel, Fluency, TargetContinuation, TextSimilarity
from fuse_index.optimize import (
    Budget,
    Problem,
    RandomSearch,
    Result,
    Term,
    check_prompt,
    optimize,
)
from tests.demo_models import START
from tests.models.pasting import talking
from tests.models.test_chat import CHATML

PREFIX = "a lovely picture "


def greedy(lm: Model, text: str, count: int) -> list[int]:
    """What transformers writes behind a text."""
    row = torch.tensor([[*lm.frame.head, *lm.words.encode_text(text)]])
    mask = torch.ones_like(row)
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    found = lm.module.generate(input_ids=row, attention_mask=mask, pad_token_id=0, **options)
    return found[0, row.shape[1] :].tolist()


def test_targets_are_met_where_the_model_writes_them(lm):
    said = greedy(lm, f"{PREFIX} {START}", 3)
    met = TargetContinuation(prefix=PREFIX, target=lm.words.decode(said))
    half = TargetContinuation(prefix=PREFIX, target=lm.words.decode([*said[:1], *said[:1]]))
    objective = TargetContinuation(items=[met, half, {"target": " horrible"}])
    problem = Problem(lm, [Term(objective, lm)])
    ids = problem.encode(START)
    found = check_prompt(problem, ids)
    assert [check.name for check in found] == [f"continuation[{i}]" for i in range(3)]
    assert [check.met for check in found] == [True, False, False]
    for check, loss in zip(found, problem.losses, strict=True):
        assert check.met == bool(loss.is_satisfied([ids])[0])
        assert check.wanted == loss.objective.target
    own = [lm.words.decode(said[: i + 1])[len(lm.words.decode(said[:i])) :] for i in range(3)]
    assert found[0].tokens == tuple(zip(own, own, strict=True))
    assert found[0].found.startswith(met.target)
    assert [wanted == given for wanted, given in found[1].tokens] == [True, False]


def test_as_many_tokens_as_asked_and_never_fewer_than_the_target(lm):
    said = greedy(lm, START, 5)
    target = TargetContinuation(target=lm.words.decode(said))
    problem = Problem(lm, [Term(target, lm), Term(Fluency(prefix=PREFIX), lm)])
    ids = problem.encode(START)
    short = check_prompt(problem, ids, 2)
    assert len(short[0].tokens) == 5
    assert short[0].met
    assert [check.name for check in short] == ["continuation", "fluency"]
    assert short[1].met is None
    assert short[1].found == lm.words.decode(greedy(lm, f"{PREFIX} {START}", 5))
    assert [check.name for check in check_prompt(problem, ids)] == ["continuation"]


def test_prompts_are_read_as_text_not_as_the_tokens_that_were_found(lm):
    """A prompt of tokens that are read otherwise is checked by what its text does."""
    problem = Problem(lm, [Term(TargetContinuation(target=" red"), lm)])
    ids = next(
        (a, b)
        for a in range(20, 400)
        for b in range(20, 60)
        if problem.encode(problem.decode((a, b))) != (a, b) and problem.decode((a, b)).strip()
    )
    text = problem.full_texts(ids)["continuation"].removesuffix(" red")
    found = check_prompt(problem, ids, 6)[0]
    assert found.found == lm.words.decode(greedy(lm, text, 6))


def test_labels_are_those_that_are_predicted(lm, sentiment):
    items = [{"label": "positive"}, {"label": "positive", "prefix": "a horrible, horrible "}]
    problem = Problem(lm, [Term(ClassifierLabel(items=items), sentiment)])
    found = check_prompt(problem, problem.encode("a lovely picture"))
    for check, before in zip(found, ("", "a horrible, horrible "), strict=True):
        text = problem.full_texts(problem.encode("a lovely picture"))[check.name]
        assert text.startswith(before)
        batch = sentiment.batch([sentiment.words.encode_text(text)])
        likely = sentiment.forward(sentiment.embed(batch.ids), batch).logits[0].softmax(-1)
        assert check.found == sentiment.labels[int(likely.argmax())]
        assert check.value == pytest.approx(float(likely[sentiment.label_id("positive")]), abs=1e-5)
        assert check.met == (check.found == "positive")
    assert {check.met for check in found} == {True, False}


def test_of_several_labels_those_above_one_half_are_predicted(lm, sentiment, monkeypatch):
    monkeypatch.setattr(sentiment, "problem_type", "multi_label_classification")
    logits = torch.tensor([[0.5, -0.1, 2.0]])
    assert sentiment.predicted(logits).tolist() == [[True, False, True]]
    objective = ClassifierLabel(items=[{"label": i} for i in range(3)])
    problem = Problem(lm, [Term(objective, sentiment)])
    found = check_prompt(problem, problem.encode("a lovely picture"))
    for check, loss in zip(found, problem.losses, strict=True):
        assert check.met == (check.value > 0.5) == (check.wanted in check.found.split(", "))
        assert check.value == pytest.approx(
            float(torch.exp(-loss.score(sentiment.words.encode_texts([" a lovely picture"])))[0]),
            abs=1e-3,
        )


def test_similarities_and_their_ranks(lm, clip):
    texts = ["a blue square", "a red circle", "a lovely triangle above a star"]
    objective = TextSimilarity(items=[{"texts": text} for text in texts])
    problem = Problem(lm, [Term(objective, clip), Term(TextSimilarity(texts="a star"), clip)])
    *found, alone = check_prompt(problem, problem.encode("a small red circle"))
    own = clip.encode_texts(["a small red circle", *texts], normalize=True).features
    cosines = (own[1:] @ own[0]).tolist()
    assert [check.value for check in found] == pytest.approx(cosines, abs=1e-4)
    order = sorted(cosines, reverse=True)
    assert [check.rank for check in found] == [1 + order.index(value) for value in cosines]
    assert [check.wanted for check in found] == texts
    assert (alone.rank, alone.met) == (None, None)


def test_a_result_keeps_its_checks(lm, tmp_path):
    problem = Problem(lm, [Term(TargetContinuation(target=" red"), lm)])
    result = optimize(
        problem,
        START,
        method=RandomSearch(search_width=8),
        budget=Budget(steps=2),
    )
    assert result.checks == ()
    checked = replace(result, checks=result.check(problem, 4))
    checked.save(tmp_path / "result.json")
    again = Result.load(tmp_path / "result.json")
    assert again.checks == checked.checks
    assert "".join(wanted for wanted, _ in again.checks[0].tokens) == " red"


@pytest.mark.parametrize("name", ["smollm", "llama"])
def test_conversations_are_pasted_with_their_special_tokens(name):
    """Items through a chat template: the whole text's tokens are those that the library gives."""
    model = talking(name, CHATML)
    items = [
        {"messages": [{"role": "user", "content": f"Go on: {{prompt}}{mark}"}], "target": "Sure"}
        for mark in "?!"
    ]
    problem = Problem(model, [Term(TargetContinuation(items=items), model)])
    ids = problem.encode("two dogs")
    for item, check in zip(items, check_prompt(problem, ids, 5), strict=True):
        (message,) = item["messages"]
        filled = message["content"].replace("{prompt}", problem.decode(ids))
        row = model.tokenizer.apply_chat_template(
            [{**message, "content": filled}], add_generation_prompt=True, return_dict=False
        )
        (new,) = model.generate([row], 5)
        assert check.found == model.words.decode([*row, *new])[len(model.words.decode(row)) :]
        assert check.met is False
