"""The law for losses: a prompt's is the same in any batch, so the batch size decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_index.models import Model, ModelKind, load_model
from fuse_index.objectives import (
    ClassifierLabel,
    Fluency,
    Loss,
    Objective,
    TargetContinuation,
    TextSimilarity,
)
from fuse_index.predict.layers import layer_gradient
from fuse_index.predict.loss_gradients import embedding_gradient, one_hot_gradient
from fuse_index.words.ragged import Ragged
from tests.models import factory

Load = Callable[..., Model]
AROUND = {"prefix": "two ", "suffix": " said"}
OBJECTIVES: dict[ModelKind, tuple[Objective, ...]] = {
    ModelKind.CAUSAL: (
        Fluency(include_suffix=True, **AROUND),
        TargetContinuation(target=" the river bank", **AROUND),
    ),
    ModelKind.CLASSIFIER: (ClassifierLabel(label="positive", **AROUND),),
    ModelKind.ENCODER: (TextSimilarity(texts=("a brown dog", "grass"), **AROUND),),
    ModelKind.CLIP: (TextSimilarity(texts="a brown dog", **AROUND),),
}
KINDS = [
    *((family, None) for family in factory.FAMILIES),
    *((family, "encoder") for family in (*factory.UNPADDED, "bert", "gemma3")),
]
TOKEN = st.integers(10, 199)
ROWS = st.builds(
    lambda start, rows: [start + row for row in rows],
    st.lists(TOKEN, max_size=4),
    st.lists(st.lists(TOKEN, min_size=1, max_size=6), min_size=1, max_size=7),
)


def losses_of(loss: Loss, rows: list[list[int]], size: int) -> torch.Tensor:
    loss.forget()
    return torch.cat([loss.score(rows[at : at + size]) for at in range(0, len(rows), size)])


@pytest.mark.parametrize(("family", "kind"), KINDS)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_the_batch_size_changes_no_loss_and_no_winner(
    loaded: Load, family: str, kind: str | None, rows: list[list[int]]
) -> None:
    model = loaded(family, kind)
    for objective in OBJECTIVES[model.kind]:
        loss = objective.prepare(model)
        alone = losses_of(loss, rows, 1)
        for size in (2, 3, len(rows)):
            together = losses_of(loss, rows, size)
            torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
            winner = alone[int(together.argmin())]
            torch.testing.assert_close(winner, alone.min(), atol=2e-5, rtol=1e-4)


def test_what_is_cached_for_short_prompts_does_not_serve_long_ones(tmp_path: Path) -> None:
    """Where the longest row decides the rotary frequencies, keys and values depend on it, too."""
    model = load_model(str(factory.save_longrope(tmp_path)), device="cpu")
    start = [300 + i for i in range(8)]
    rows = [[*start, *range(310, 310 + more)] for more in (1, 12, 3, 11, 2)]
    for objective in OBJECTIVES[model.kind]:
        loss = objective.prepare(model)
        plain = torch.cat([_without_cache(loss, row) for row in rows])
        for size in (1, 2, len(rows)):
            got = losses_of(loss, rows, size)
            torch.testing.assert_close(got, plain, atol=2e-5, rtol=1e-4)


def _without_cache(loss: Loss, row: list[int]) -> torch.Tensor:
    loss._start._possible = False  # type: ignore[attr-defined]
    try:
        return loss.score([row])
    finally:
        loss._start._possible = True  # type: ignore[attr-defined]


UNEVEN = [[50, 60, 70, 80, 90], [100, 110], [120, 130, 140], [150, 160]]
with_gradient = pytest.mark.parametrize("family", ["gpt2", "bert", *factory.UNPADDED])


@with_gradient
def test_gradients_are_those_of_every_prompt_alone(loaded: Load, family: str) -> None:
    loss = OBJECTIVES[loaded(family).kind][0].prepare(loaded(family))
    rows = Ragged.from_lists(UNEVEN)
    losses, packed = embedding_gradient(loss, rows)
    by_token = one_hot_gradient(loss, rows)[1]
    for at, (row, own) in enumerate(zip(UNEVEN, packed.split(list(map(len, UNEVEN))), strict=True)):
        alone, slope = embedding_gradient(loss, [row])
        torch.testing.assert_close(losses[at], alone[0], atol=1e-5, rtol=1e-4)
        size = float(slope.abs().max())
        torch.testing.assert_close(own, slope, atol=1e-3 * size, rtol=1e-3)
        expected = one_hot_gradient(loss, Ragged.from_lists([row]))[1][0]
        size = float(expected.abs().max())
        got = by_token[at, : len(row)]
        torch.testing.assert_close(got, expected, atol=1e-3 * size, rtol=1e-3)
        assert not by_token[at, len(row) :].any()


@pytest.mark.parametrize("family", [f for f in ("gpt2", "bert", *factory.UNPADDED) if f != "xlnet"])
def test_layer_gradients_are_those_of_every_prompt_alone(loaded: Load, family: str) -> None:
    loss = OBJECTIVES[loaded(family).kind][0].prepare(loaded(family))
    spans = torch.tensor([[1, 3], [0, 1], [2, 3], [1, 2]]).numpy()
    losses, sums = layer_gradient(loss, Ragged.from_lists(UNEVEN), spans)
    for at, row in enumerate(UNEVEN):
        alone, own = layer_gradient(loss, Ragged.from_lists([row]), spans[at : at + 1])
        torch.testing.assert_close(losses[at], alone[0], atol=1e-5, rtol=1e-4)
        size = float(own.abs().max())
        torch.testing.assert_close(sums[at], own[0], atol=1e-3 * size, rtol=1e-3)
