"""Objectives in files, bound to models, and objectives of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fuse_index.errors import FuseIndexError, LossError, ModelError, OptionError
from fuse_index.models import Model
from fuse_index.models.batch import Batch
from fuse_index.objectives import (
    OBJECTIVES,
    ClassifierLabel,
    ContinuationDivergence,
    CustomObjective,
    CustomTextObjective,
    EnergyLogProbability,
    Fluency,
    ImageSimilarity,
    LengthPenalty,
    Objective,
    RepetitionPenalty,
    TargetContinuation,
    TextSimilarity,
    TokenDivergence,
    objective_from_json,
    require_finite,
)

Load = Callable[..., Model]
EXAMPLES: list[Objective] = [
    Fluency(weight=2.0, prefix="a", suffix=" b", reduction="sum", include_suffix=True),
    EnergyLogProbability(),
    TokenDivergence(temperature=0.5),
    TargetContinuation(target=" yes", loss="mellowmax", mellowmax_alpha=2.0),
    ContinuationDivergence(reference="x", text=" y"),
    ImageSimilarity(images=("a.png", "b.png")),
    TextSimilarity(texts="one"),
    ClassifierLabel(label="positive", weight=-1.0),
    RepetitionPenalty(ngram=2),
    LengthPenalty(maximum=5, unit="words"),
]


@pytest.mark.smoke
@pytest.mark.parametrize("objective", EXAMPLES, ids=lambda objective: objective.type)
def test_written_and_read_again(objective: Objective) -> None:
    written = json.loads(json.dumps(objective.to_json()))
    assert written["type"] == objective.type
    assert objective_from_json(written) == objective


def test_every_type_is_tried() -> None:
    assert {objective.type for objective in EXAMPLES} == set(OBJECTIVES)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"type": "joy"}, "objective type 'joy'; expected one of continuation, "),
        ({}, "objective type None"),
        ({"type": "fluency", "wieght": 1}, "fluency: field 'wieght' is unknown; expected one of "),
        ({"type": "label"}, "label: no 'label'; expected label to be given"),
        ({"type": "length", "maximum": 0}, "length: maximum=0; expected at least 1"),
        ({"type": "fluency", "weight": "much"}, "fluency.weight: 'much'; expected a number"),
        ({"type": "fluency", "prefix": 3}, "fluency.prefix: 3; expected a text"),
    ],
)
def test_bad_files(value: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        objective_from_json(value)


def test_opened_images_and_functions_cannot_be_written() -> None:
    with pytest.raises(
        OptionError, match=r"image: images: object has no JSON form.*expected something"
    ):
        ImageSimilarity(images=object()).to_json()
    with pytest.raises(OptionError, match="custom: function"):
        CustomObjective(function=lambda model, embeds, batch: embeds.sum((1, 2))).to_json()


def test_options_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Fluency().weight = 2.0  # type: ignore[misc]


def test_custom_function_of_embeddings(loaded: Load) -> None:
    model = loaded("gpt2")

    def longest(model: Model, embeds: torch.Tensor, batch: Batch) -> torch.Tensor:
        return embeds[batch.content].norm() * batch.lengths

    loss = CustomObjective(function=longest, prefix="two").prepare(model)
    batch = loss.batch([[5, 6], [7]])
    embeds = model.embed(batch.ids).requires_grad_()
    got = loss(embeds, batch)
    norm = float(model.table()[[5, 6, 7]].norm())
    assert got.tolist() == pytest.approx([2 * norm, norm], rel=1e-5)
    (grad,) = torch.autograd.grad(got.sum(), embeds)
    assert grad[batch.content].any()


def test_custom_function_of_texts(loaded: Load) -> None:
    model = loaded("gpt2")
    seen: list[str] = []

    def count(texts: Any) -> list[int]:
        seen.extend(texts)
        return [len(text) for text in texts]

    rows = [model.words.encode_text(text) for text in (" a dog", " grass")]
    loss = CustomTextObjective(function=count, prefix="two", suffix="!").prepare(model)
    assert loss.score(rows).tolist() == [10.0, 10.0]
    assert seen == ["two a dog!", "two grass!"]
    assert not loss.objective.differentiable


def test_functions_that_do_not_give_a_loss_a_prompt(loaded: Load) -> None:
    model = loaded("gpt2")
    mean = CustomObjective(function=lambda model, embeds, batch: embeds.mean()).prepare(model)
    with pytest.raises(LossError, match=r"losses of shape \(\); expected \(2,\), one for every"):
        mean.score([[5], [6]])
    few = CustomTextObjective(function=lambda texts: [1.0]).prepare(model)
    with pytest.raises(LossError, match=r"losses of shape \(1,\)"):
        few.score([[5], [6]])
    words = CustomTextObjective(function=lambda texts: ["bad", "good"])  # type: ignore[list-item]
    with pytest.raises(LossError, match="does not give numbers"):
        words.prepare(model).score([[5], [6]])
    with pytest.raises(OptionError, match="custom: function=3; expected a callable"):
        CustomObjective(function=3)  # type: ignore[arg-type]


def test_prompt_longer_than_the_positions(loaded: Load) -> None:
    with pytest.raises(ModelError, match="expected at most 48, the model's positions"):
        Fluency(prefix="two").prepare(loaded("gpt2")).score([[5] * 60])


def test_losses_that_are_not_finite_name_objective_and_prompt(loaded: Load) -> None:
    model = loaded("gpt2")
    loss = Fluency().prepare(model)
    rows = [model.words.encode_text(text) for text in (" a dog", " grass", " fox")]
    batch = loss.batch(rows)
    require_finite(torch.zeros(3), loss, batch)
    with pytest.raises(FuseIndexError) as error:
        require_finite(torch.tensor([0.0, float("nan"), float("inf")]), loss, batch)
    text = str(error.value)
    assert text.startswith(f"fluency({model.name}) is nan for the prompt ' grass' and 1 more; ")
