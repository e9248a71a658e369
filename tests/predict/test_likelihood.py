"""Likelihoods of tokens: behind prompts, along them, and within."""

from __future__ import annotations

import pytest
import torch

from fuse_index.errors import ModelError
from fuse_index.models import load_model
from fuse_index.objectives import Fluency, TextSimilarity
from fuse_index.optimize import Problem, Spent, Term
from fuse_index.predict.likelihood import Likelihood
from tests.demo_models import BASE
from tests.models import factory


@pytest.mark.parametrize("prefix", ["", "here is a sentence."])
def test_next_tokens_are_the_models_predictions(lm, prefix):
    problem = Problem(lm, [Term(Fluency(prefix=prefix), lm)])
    spent = Spent()
    prompts = [problem.encode(text) for text in ("the picture contains", "a", "the blue star")]
    got = Likelihood(problem, spent, "autodan").next_tokens(prompts)
    before = [*lm.frame.head, *(lm.words.encode_text(prefix) if prefix else [])]
    for row, ids in zip(got, prompts, strict=True):
        logits = lm.module(input_ids=torch.tensor([[*before, *ids]])).logits[0, -1]
        expected = logits[: lm.vocabulary_size].log_softmax(dim=-1)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)
    assert spent.predicted == spent.forward_passes == 3


def test_tokens_within_look_to_both_sides(lm, lm_problem):
    spent = Spent()
    likelihood = Likelihood(lm_problem, spent, "autodan")
    ids = lm_problem.encode("the picture contains a blue star on the left")
    last = likelihood.tokens_within([ids], len(ids) - 1)[0]
    torch.testing.assert_close(last, likelihood.next_tokens([ids[:-1]])[0], rtol=1e-3, atol=1e-3)
    assert spent.forward_passes == 3 + 1
    scores = likelihood.tokens_within([ids], 3)[0]
    rows = torch.tensor([[*lm.frame.head, *ids]])
    place, table = 3 + len(lm.frame.head), lm.table()

    def mixed(token: int, share: float) -> float:
        """Log-likelihood where the token has a share in the position, as input and as label."""
        embeds = table[rows].clone()
        embeds[0, place] += share * (table[token] - embeds[0, place])
        log_probs = lm.module(inputs_embeds=embeds).logits[0].double().log_softmax(dim=-1)
        own = log_probs[:-1].gather(1, rows[0, 1:, None])[:, 0]
        return float(own.sum() + share * (log_probs[place - 1, token] - own[place - 1]))

    others = torch.from_numpy(lm_problem.allowed).nonzero()[::20, 0].tolist()
    slopes = [(mixed(token, 0.02) - mixed(token, -0.02)) / 0.04 for token in others]
    expected = [float(scores[token] - scores[ids[3]]) for token in others]
    assert slopes == pytest.approx(expected, rel=0.02, abs=0.05)


def test_predictions_along_a_prompt_are_those_behind_its_beginnings(problem, lm):
    ids, spent = problem.encode(BASE), Spent()
    likelihood = Likelihood(problem, spent, "autodan")
    along = likelihood.along(ids)
    assert spent.predicted == 1
    assert along.shape == (len(ids) + 1, lm.vocabulary_size)
    beginnings = [ids[:end] for end in range(1, len(ids) + 1)]
    torch.testing.assert_close(along[1:], likelihood.next_tokens(beginnings), atol=1e-4, rtol=1e-4)
    other = likelihood.along(problem.encode("a star"))
    torch.testing.assert_close(along[0], other[0], atol=1e-4, rtol=1e-4)


def test_a_model_without_a_beginning_predicts_no_first_token(tmp_path):
    """GPT-2 begins texts with nothing: the first token has no context."""
    model = load_model(str(factory.save_model("gpt2", tmp_path)), device="cpu")
    problem = Problem(model, [Term(Fluency(), model)])
    ids = problem.encode("a brown dog")
    likelihood = Likelihood(problem, Spent(), "autodan")
    along = likelihood.along(ids)
    assert along.shape == (len(ids) + 1, model.vocabulary_size)
    assert not along[0].any()
    behind = likelihood.next_tokens([ids])[0]
    torch.testing.assert_close(along[-1], behind, atol=1e-4, rtol=1e-4)


def test_the_source_must_be_causal(clip):
    problem = Problem(clip, [Term(TextSimilarity(texts="a star"), clip)])
    with pytest.raises(ModelError, match=r"moves: .* of kind 'clip' as the source; expected a cau"):
        Likelihood(problem, Spent(), "moves")
