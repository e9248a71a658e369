"""Gradients scaled in residual branches, wherever a predictor takes one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.errors import ModelError, OptionError
from fuse_index.models.branches import scaled_branches
from fuse_index.objectives import CustomObjective, TargetContinuation
from fuse_index.optimize import GCG, PEZ, AutoDAN, Budget, Problem, Spent, Term, optimize
from fuse_index.predict import Gradients, Predictor, TokenUnits, unit_predictor
from fuse_index.predict.loss_gradients import embedding_gradient, one_hot_gradient
from fuse_index.predict.spans import span_gradients
from fuse_index.words.ragged import Ragged
from tests.demo_models import START

TEXTS = ("the picture contains a small circle", "a lovely red triangle above the horrible square")
SPANS = np.array([[2, 4], [1, 2]])


def test_of_every_kind_are_those_of_a_model_with_scaled_branches(problem, lm_problem):
    loss = problem.losses[1]
    rows = loss.model.words.encode_texts(TEXTS)
    fluency = lm_problem.losses[0]
    tokens = fluency.model.words.encode_texts(TEXTS)

    def taken(scale: float) -> list[torch.Tensor]:
        return [
            *embedding_gradient(loss, rows, residual_scale=scale),
            *span_gradients(loss, rows, SPANS, layers=True, residual_scale=scale),
            *one_hot_gradient(fluency, tokens, residual_scale=scale),
        ]

    plain, found = taken(1.0), taken(0.6)
    with (
        scaled_branches(loss.model.branches, 0.6),
        scaled_branches(fluency.model.branches, 0.6),
    ):
        expected = taken(1.0)
    for i, (own, other, wanted) in enumerate(zip(found, plain, expected, strict=True)):
        torch.testing.assert_close(own, wanted, rtol=0, atol=0)
        if i % 2 == 0:
            torch.testing.assert_close(own, other, rtol=0, atol=0)  # losses
        else:
            assert (own - other).norm() > 0.02 * other.norm()


@pytest.mark.parametrize("predictor", list(Predictor))
def test_every_predictor_follows_them(problem, predictor):
    gradients, units = Gradients(problem, Spent()), problem.word_units
    prompt = units.spans(problem.encode(TEXTS[0]))
    weights = np.array([0.3, 1.0])

    def ranked(own: Gradients) -> torch.Tensor:
        rankings = unit_predictor(own, units, predictor).rank([prompt], [[1, 3]], weights)
        return torch.stack([ranking.changes for ranking in rankings[0]])

    scaled = gradients.scaled(0.6)
    assert scaled.spent is gradients.spent
    assert not torch.allclose(ranked(scaled), ranked(gradients))
    torch.testing.assert_close(ranked(gradients.scaled(1.0)), ranked(gradients), rtol=0, atol=0)


def test_tokens_by_layers_follow_them(lm_problem):
    gradients = Gradients(lm_problem, Spent())
    units = TokenUnits(lm_problem.source, lm_problem.allowed)
    rows = Ragged.from_lists([lm_problem.encode(TEXTS[0])])
    found = [
        unit_predictor(own, units, Predictor.LAYERS).at(rows, np.array([2]), np.ones(1), mean=False)
        for own in (gradients, gradients.scaled(0.6))
    ]
    assert not torch.allclose(*found)


@pytest.mark.parametrize(
    "method",
    [
        GCG(search_width=8, residual_scale=0.7),
        GCG(unit="word", search_width=8, residual_scale=0.7),
        AutoDAN(length=12, search_width=8, residual_scale=0.7),
        PEZ(residual_scale=0.7),
    ],
    ids=["gcg", "gcg words", "autodan", "pez"],
)
def test_methods_take_them_and_losses_stay(problem, method):
    result = optimize(problem, START, method=method, budget=Budget(steps=2))
    assert result.configuration["method"]["residual_scale"] == 0.7
    total = sum(
        float(loss.score(problem.targets[i].read(Ragged.from_lists([result.ids])).contents))
        * loss.objective.weight
        for i, loss in enumerate(problem.losses)
    )
    assert result.total == pytest.approx(total, rel=1e-4)


def test_models_without_branches_and_other_scales_are_refused(lm, monkeypatch):
    problem = Problem(lm, [Term(TargetContinuation(target=" circle"), lm)])
    with pytest.raises(OptionError, match=r"residual_scale=1.5; expected at most 1"):
        GCG(residual_scale=1.5)

    def refuse(*_):
        raise ModelError("no branches", expected="some")

    monkeypatch.setattr("fuse_index.models.base.find_branches", refuse)
    lm.__dict__.pop("branches", None)
    with pytest.raises(ModelError, match="no branches"):
        optimize(problem, START, method=GCG(residual_scale=0.5), budget=Budget(steps=1))
    optimize(problem, START, method=GCG(search_width=4), budget=Budget(steps=1))


def test_a_loss_that_runs_no_layer_is_not_touched(lm):
    def small(model, embeds, batch):
        return embeds.square().sum(dim=(1, 2))

    loss = CustomObjective(function=small).prepare(lm)
    rows = lm.words.encode_texts(TEXTS)
    found = [embedding_gradient(loss, rows, residual_scale=scale)[1] for scale in (1.0, 0.5)]
    torch.testing.assert_close(*found, rtol=0, atol=0)
