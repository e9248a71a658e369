"""What is written after the prompt: target texts, and the predictions of another prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fuse_index.errors import LossError, OptionError
from fuse_index.models import Model
from fuse_index.objectives import ContinuationDivergence, ContinuationLoss, TargetContinuation
from fuse_index.objectives.continuation import mellowmax
from fuse_index.objectives.shared import SharedStart
from tests.models import factory

Load = Callable[..., Model]
TEXTS = [" a brown dog", " two children play with a boat", " grass"]
TARGET = " runs over the bridge"


def target_logits(model: Model, row: list[int], prefix: str, suffix: str) -> torch.Tensor:
    """(T, V) logits before each target token, by the model's own forward."""
    encode = model.words.encode_text
    ids = [*model.frame.head, *encode(prefix), *row, *encode(suffix), *encode(TARGET)]
    net: Any = model.module
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([ids])).logits[0, :, : model.vocabulary_size]
    return logits[-len(encode(TARGET)) - 1 : -1]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma3"])
@pytest.mark.parametrize("loss", list(ContinuationLoss))
def test_target_by_its_formula(loaded: Load, family: str, loss: ContinuationLoss) -> None:
    model = loaded(family)
    objective = TargetContinuation(
        target=TARGET, loss=loss, mellowmax_alpha=0.7, prefix="the old", suffix=" said"
    )
    rows = [model.words.encode_text(text) for text in TEXTS]
    got = objective.prepare(model).score(rows)
    ids = torch.tensor(model.words.encode_text(TARGET))[:, None]
    for i, row in enumerate(rows):
        logits = target_logits(model, row, "the old", " said").double()
        if loss is ContinuationLoss.CROSS_ENTROPY:
            expected = -logits.log_softmax(-1).gather(-1, ids).mean()
        else:
            values = -logits.gather(-1, ids)[:, 0]
            expected = torch.log(torch.exp(0.7 * values).mean()) / 0.7
        assert float(got[i]) == pytest.approx(float(expected), rel=1e-4)


def test_mellowmax_lies_between_mean_and_maximum() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]])
    assert mellowmax(values, 1e-4).tolist() == pytest.approx([7 / 3, 3], abs=1e-3)
    assert mellowmax(values, 20.0).tolist() == pytest.approx([4, 3], abs=0.06)


@pytest.mark.parametrize("family", factory.CAUSAL)
def test_cached_start_changes_nothing(
    loaded: Load, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(family)
    stem = model.words.encode_text(" a brown dog")
    rows = [[*stem, *model.words.encode_text(" and a boat")], stem, stem]
    options = {"target": TARGET, "prefix": "two", "suffix": " said"}
    loss = TargetContinuation(**options).prepare(model)
    together, twins = loss.score(rows), loss.score([stem, stem])
    batch = loss.batch(rows)
    embeds = model.embed(batch.ids).requires_grad_()
    (grad,) = torch.autograd.grad(loss(embeds, batch).sum(), embeds)
    monkeypatch.setattr(SharedStart, "of", lambda *args, **options: None)
    plain = TargetContinuation(**options).prepare(model)
    alone = torch.cat([plain.score([row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=2e-5)
    torch.testing.assert_close(twins, alone[1:], atol=2e-4, rtol=2e-5)
    embeds = model.embed(batch.ids).requires_grad_()
    (expected,) = torch.autograd.grad(plain(embeds, batch).sum(), embeds)
    gap = (grad - expected)[batch.content].abs().max()
    assert gap < 1e-3 * expected[batch.content].abs().max()


def test_divergence_from_the_reference_is_zero_and_from_others_its_formula(loaded: Load) -> None:
    model = loaded("gpt2")
    objective = ContinuationDivergence(reference=TEXTS[0], text=TARGET, prefix="the old")
    rows = [model.words.encode_text(text) for text in TEXTS]
    got = objective.prepare(model).score(rows)
    assert float(got[0]) == pytest.approx(0, abs=1e-5)
    reference = target_logits(model, rows[0], "the old", "").log_softmax(-1)
    for i, row in enumerate(rows[1:], start=1):
        own = target_logits(model, row, "the old", "").log_softmax(-1)
        expected = (reference.exp() * (reference - own)).sum(-1).mean()
        assert float(got[i]) == pytest.approx(float(expected), rel=1e-3)
        assert got[i] > 0.01


def test_bad_options(loaded: Load) -> None:
    model = loaded("gpt2")
    with pytest.raises(OptionError, match="target ''; expected a text"):
        TargetContinuation(target="")
    with pytest.raises(OptionError, match="continuation: mellowmax_alpha=0; expected more than 0"):
        TargetContinuation(target="x", mellowmax_alpha=0)
    with pytest.raises(OptionError, match="expected one of cross_entropy, mellowmax"):
        TargetContinuation(target="x", loss="hinge")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="text ''"):
        ContinuationDivergence(reference="a", text="")
    with pytest.raises(LossError, match="an empty prompt without anything before it"):
        TargetContinuation(target="x").prepare(model).score([[]])
