"""What a run is said to take, against what it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fuse_index.models import Model, load_model
from fuse_index.models.memory import PassShape, pass_shape, weight_bytes
from fuse_index.objectives import Fluency, TargetContinuation, TextSimilarity
from fuse_index.optimize import GCG, Problem, RandomSearch, Term
from fuse_index.optimize.memory import plan_memory
from fuse_index.predict.gradients import embedding_gradient
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.units import Unit
from tests.models import factory

START = "the picture contains a small circle on the left"


@pytest.fixture
def two(lm: Model, clip: Model) -> Problem:
    terms = [Term(Fluency(), lm), Term(TextSimilarity(texts="a blue cross"), clip)]
    return Problem(lm, terms, words=["circle", "blue", "a"])


def test_a_plan_has_what_was_asked_for(two: Problem, lm: Model, clip: Model) -> None:
    start = [two.encode(START)]
    plan = plan_memory(two, GCG(unit=Unit.WORD, predictor=Predictor.LAYERS), start)
    assert plan.weights == weight_bytes(lm.module) + weight_bytes(clip.module)
    numbers = sum((len(model.layers) + 1) * model.width for model in (lm, clip))
    assert plan.states == 4 * len(two.word_units) * numbers
    assert (plan.prompts, plan.graphs) == (64, 0)
    assert plan.scoring > plan.gradient > 0
    assert str(plan).startswith("weights ")
    assert "CUDA" not in str(plan)
    assert plan.to_json()["prompts"] == 64


def test_what_is_not_done_takes_nothing(two: Problem) -> None:
    start = [two.encode(START)]
    plan = plan_memory(two, RandomSearch(), start, batch_size=1)
    whole = plan_memory(two, RandomSearch(), start, batch_size=64)
    assert plan.states == plan.gradient == 0
    assert plan.prompts == 1
    assert whole.scoring == pytest.approx(64 * plan.scoring, rel=0.01)
    assert "states" not in str(plan)


def test_only_positions_with_logits_count(lm: Model) -> None:
    fluent, target = Fluency().prepare(lm), TargetContinuation(target=" a cross").prepare(lm)
    rows = [[20] * 12, [20] * 9]
    length = int(fluent.batch(rows).ids.shape[1])
    assert fluent.predictions(fluent.batch(rows)) == length - 1
    tokens = len(target.surroundings.target_ids)
    assert target.predictions(target.batch(rows)) == tokens + 3
    shape = pass_shape(lm)
    assert shape is not None
    assert shape.vocabulary == lm.vocabulary_size
    large = replace(shape, vocabulary=50_000)
    assert large.scoring(8, 100, 5) < large.scoring(8, 100, 100) / 10


def test_half_precision_takes_half_but_for_probabilities() -> None:
    whole = PassShape(layers=2, width=8, inner=32, vocabulary=0, item=4)
    assert replace(whole, item=2).gradient(3, 5, 0) == whole.gradient(3, 5, 0) // 2
    words = replace(whole, vocabulary=1000)
    assert words.scoring(640, 5, 5) > 10 * words.scoring(32, 5, 5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_estimates_are_near_what_a_gpu_takes(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype
) -> None:
    folder = factory.save_model("gpt2", tmp_path_factory.mktemp("gpt2"))
    model = load_model(str(folder), device="cuda", dtype=dtype)
    shape = pass_shape(model)
    assert shape is not None
    loss = Fluency().prepare(model)
    loss.graphs.enabled = False
    rows = [[20 + i % 50] * 24 for i in range(2048)]
    length = int(loss.batch(rows).ids.shape[1])
    for run, estimate in (
        (loss.score, shape.scoring),
        (lambda own: embedding_gradient(loss, own), shape.gradient),
    ):
        run(rows)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(rows)
        taken = torch.cuda.max_memory_allocated() - before
        assert 0.4 <= estimate(len(rows), length, length) / taken <= 2.5
