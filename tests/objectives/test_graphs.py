"""Replayed passes give what the same passes give when they are run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fuse_index.models import Model, ModelKind, load_model
from fuse_index.models import graphs as module
from fuse_index.models.graph_memory import graph_memory
from fuse_index.models.graphs import GraphCache
from fuse_index.objectives import (
    ClassifierLabel,
    ContinuationDivergence,
    EnergyLogProbability,
    Fluency,
    ImageSimilarity,
    LengthPenalty,
    Objective,
    RepetitionPenalty,
    TargetContinuation,
    TextSimilarity,
    TokenDivergence,
)
from fuse_index.objectives.base import Loss
from fuse_index.objectives.custom import CustomObjective
from fuse_index.predict.loss_gradients import embedding_gradient, one_hot_gradient
from fuse_index.words.ragged import Ragged
from tests.models import factory

SIDES: dict[str, Any] = {"prefix": "two", "suffix": " said"}
BY_KIND: dict[ModelKind, list[Objective]] = {
    ModelKind.CAUSAL: [
        Fluency(**SIDES),
        Fluency(include_suffix=True),
        EnergyLogProbability(**SIDES),
        TokenDivergence(**SIDES),
        TargetContinuation(target=" the green grass", **SIDES),
        TargetContinuation(target=" a dog", loss="mellowmax"),
        ContinuationDivergence(reference="the dog", text=" the green grass", **SIDES),
        RepetitionPenalty(),
    ],
    ModelKind.CLIP: [
        TextSimilarity(texts="a brown dog", **SIDES),
        ImageSimilarity(images=Image.new("RGB", (32, 32), (40, 90, 160))),
        RepetitionPenalty(),
    ],
    ModelKind.ENCODER: [TextSimilarity(texts=("a brown dog", "the boat"), **SIDES)],
    ModelKind.CLASSIFIER: [ClassifierLabel(label=1, **SIDES)],
}
RUNS = 5


def prompts(model: Model, rows: int, lengths: tuple[int, int], seed: int) -> Ragged:
    """Random contents of so many tokens each, none a special token."""
    generator = torch.Generator().manual_seed(seed)
    special = set(model.tokenizer.all_special_ids) if hasattr(model.tokenizer, "vocab") else set()
    plain = torch.tensor([i for i in range(model.vocabulary_size) if i not in special])
    counts = torch.randint(lengths[0], lengths[1] + 1, (rows,), generator=generator).tolist()
    drawn = [plain[torch.randint(len(plain), (n,), generator=generator)].tolist() for n in counts]
    return Ragged.from_lists(drawn)


def scored(loss: Loss, rows: Ragged) -> tuple[torch.Tensor]:
    return (loss.score_batch(loss.batch(rows)),)


def waits(embeds: torch.Tensor, _: Any) -> tuple[torch.Tensor]:
    """A pass that asks the GPU for a number."""
    return (embeds.sum(dim=(1, 2)) * float(embeds.sum().item() > -1e9),)


def compared(loss: Loss, run: Callable[[Loss, Ragged], Any], rows: Ragged) -> None:
    """A pass's results by replaying and without."""
    loss.graphs.enabled = True
    got = run(loss, rows)
    loss.graphs.enabled = False
    expected = run(loss, rows)
    loss.graphs.enabled = True
    for mine, other in zip(got, expected, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).norm() <= 1e-4 * other.norm() + 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("family", factory.FAMILIES)
def test_replays_what_is_run(saved: Callable[[str], Path], family: str) -> None:
    model = load_model(str(saved(family)), device="cuda", dtype=torch.float32)
    objectives = BY_KIND[model.kind]
    if model.kind is ModelKind.CLASSIFIER:
        encoder = load_model(str(saved(family)), kind="encoder", device="cuda", dtype=torch.float32)
        for objective in BY_KIND[ModelKind.ENCODER]:
            check(objective.prepare(encoder))
    for objective in objectives:
        if family == "siglip" and isinstance(objective, ImageSimilarity):
            continue
        loss = objective.prepare(model)
        check(loss)
        if family in factory.UNPADDED:  # whose uneven rows are not recorded
            continue
        # Falcon makes its mask from a number of the host's
        refused = family.startswith("falcon") and objective.type != "repetition"
        assert bool(loss.graphs._refused) == refused
        # the uneven rows are of few shapes, because both sides are rounded
        assert refused or 2 <= len(loss.graphs._recordings) <= 8


def check(loss: Loss) -> None:
    """Scores of even and uneven rows, and both gradients, several times each."""
    for lengths in ((6, 6), (3, 9)):
        for i in range(RUNS):
            rows = prompts(loss.model, 40 - i, lengths, seed=i)
            compared(loss, scored, rows)
    for i in range(RUNS):
        one = prompts(loss.model, 1, (6, 6), seed=i)
        if loss.objective.type != "repetition":
            compared(loss, embedding_gradient, one)
        if loss.uses_labels:
            compared(loss, one_hot_gradient, one)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["gpt2", "gemma3", "clip"])
def test_gradients_of_different_scales_are_recorded_apart(
    saved: Callable[[str], Path], family: str
) -> None:
    model = load_model(str(saved(family)), device="cuda", dtype=torch.float32)
    loss = BY_KIND[model.kind][0].prepare(model)
    for i in range(RUNS):
        one = prompts(model, 1, (6, 6), seed=i)
        for scale in (1.0, 0.5):
            compared(loss, partial(embedding_gradient, residual_scale=scale), one)
            compared(loss, scored, one)
    assert not loss.graphs._refused
    assert len(loss.graphs._recordings) == 3


@pytest.mark.gpu
def test_a_pass_that_waits_for_the_gpu_is_run_as_usual(saved: Callable[[str], Path]) -> None:
    model = load_model(str(saved("gpt2")), device="cuda", dtype=torch.float32)
    loss = Fluency().prepare(model)
    batch = loss.batch(prompts(model, 4, (5, 5), 0))
    embeds = model.embed(batch.ids)
    stream = torch.cuda.current_stream()
    for _ in range(6):
        (got,) = loss.graphs.run("waits", waits, embeds, batch)
        torch.testing.assert_close(got, embeds.sum(dim=(1, 2)))
    assert loss.graphs._refused == {"waits"}
    # the GPU is as good as before: its stream, its allocator, other recordings
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    large = torch.zeros(1 << 28, device="cuda")
    del large
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before
    for i in range(RUNS):
        compared(loss, scored, prompts(model, 4, (5, 5), i))
    assert len(loss.graphs._recordings) == 1


@pytest.mark.gpu
def test_forgets_the_oldest_and_results_stay(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT", 2)
    model = load_model(str(saved("gpt2")), device="cuda", dtype=torch.float32)
    loss = Fluency().prepare(model)
    kept = []
    for length in (4, 5, 6, 4, 5, 6):
        for i in range(RUNS):
            batch = loss.batch(prompts(model, 3, (length, length), i))
            kept.append((batch, loss.score_batch(batch)))
    assert len(loss.graphs._recordings) == 2
    loss.graphs.enabled = False
    for batch, got in kept:
        torch.testing.assert_close(got, loss.score_batch(batch), rtol=2e-4, atol=2e-5)


@pytest.mark.gpu
def test_recordings_share_their_memory(saved: Callable[[str], Path]) -> None:
    model = load_model(str(saved("gpt2")), device="cuda", dtype=torch.float32)
    loss = Fluency().prepare(model)
    memory = graph_memory(model.device)
    memory.clear()
    held = []
    for length in (16, 12, 8):  # the largest first
        for i in range(RUNS):
            compared(loss, scored, prompts(model, 2048, (length, length), i))
        held.append(memory.held)
    assert len(loss.graphs._recordings) == 3
    assert held[0] >= 2048 * 15 * model.vocabulary_size * 4  # the logits
    assert held[-1] <= 1.5 * held[0]


@pytest.mark.gpu
def test_recordings_keep_to_their_limit(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(saved("gpt2")), device="cuda", dtype=torch.float32)
    memory = graph_memory(model.device)
    memory.clear()
    monkeypatch.setattr(memory, "_free", lambda: 4 * (5 << 20) - memory.held)
    monkeypatch.setattr(module, "_AGAIN", 0)
    loss = Fluency().prepare(model)
    for rows in (64, 128, 256, 512, 1024):
        for i in range(RUNS):
            compared(loss, scored, prompts(model, rows, (6, 6), i))
            assert memory.held <= 5 << 20


def test_objectives_say_whether_they_can_be_replayed(loaded: Callable[..., Model]) -> None:
    model = loaded("gpt2")
    custom = CustomObjective(function=lambda model, embeds, batch: embeds.sum(dim=(1, 2)))
    assert not custom.prepare(model).graphs.enabled
    assert not LengthPenalty(maximum=4).prepare(model).graphs.enabled
    assert Fluency().prepare(model).graphs.enabled


def test_a_cpu_records_nothing(loaded: Callable[..., Model]) -> None:
    loss = Fluency().prepare(loaded("gpt2"))
    rows = prompts(loss.model, 4, (5, 5), 0)
    for _ in range(RUNS):
        loss.score(rows)
    assert not loss.graphs._seen


def test_rows_are_rounded_to_quarters_of_powers_of_two() -> None:
    rounded = [module._rounded_rows(n) for n in range(1, 1025)]
    assert rounded[:16] == list(range(1, 17))
    assert all(n <= r <= 1.25 * n + 1 for n, r in enumerate(rounded, start=1))
    assert len(set(rounded[256:512])) == 4
    assert module._rounded_rows(512) == 512


@pytest.mark.parametrize("family", ["gpt2", "bert", "clip", "siglip"])
def test_rounded_batches_agree_in_what_a_recording_holds(
    loaded: Callable[..., Model], family: str
) -> None:
    """Uneven batches of nearly one shape become one shape, of which nothing else is read."""
    model = loaded(family)
    cache = GraphCache(model)
    shapes = set()
    for seed in range(6):
        batch = model.batch(prompts(model, 40, (5, 8), seed), prefix="two")
        batch = replace(batch, even=False)
        shape = cache._rounded(batch, exact=False)
        assert shape.ids.shape[1] >= batch.ids.shape[1]
        assert shape.ids.shape[1] <= (model.positions or 10**9)
        assert shape.start + shape.longest >= batch.start + batch.longest
        shapes.add((shape.ids.shape, *module._constants(shape)))
    causal = model.kind is ModelKind.CAUSAL  # whose shortest row decides what logits are wanted
    assert len(shapes) <= (2 if causal else 1)


@pytest.mark.parametrize(("limit", "rounded"), [(None, 16), (16, 16), (15, 9), (0, 9)])
def test_no_row_is_rounded_where_padding_would_change_it(
    loaded: Callable[..., Model],
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
    rounded: int,
) -> None:
    model = loaded("bert")
    monkeypatch.setattr(model, "padding_limit", limit)
    batch = model.batch([[30] * 7] * 3)
    shape = GraphCache(model)._rounded(batch, exact=False)
    assert shape.ids.shape[1] == rounded
    assert shape.even == (rounded == 9)


def test_batches_that_share_most_are_not_replayed(loaded: Callable[..., Model]) -> None:
    model = loaded("gpt2")
    same = [3, 4, 5, 6, 7, 8]
    assert module._shares_most(model.batch([[*same, 9], [*same, 10]]))
    assert not module._shares_most(model.batch([[9, *same], [10, *same]]))
    assert not module._shares_most(model.batch([[9, *same]]))
