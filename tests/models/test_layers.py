"""Layers found in every family, and the gradients at hidden states that are cut out of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn

from fuse_index.errors import ModelError
from fuse_index.models import Model, ModelKind
from fuse_index.models.batch import Batch
from fuse_index.models.layers import CutStates, find_layers
from tests.models import factory

TEXTS = ["a brown dog runs over the grass", "the quick fox", "two children play"]
Load = Callable[..., Model]
# XLNet's states are (L, b, width), so its layers cannot be told apart
every_family = pytest.mark.parametrize("family", [f for f in factory.FAMILIES if f != "xlnet"])


def framed(model: Model) -> tuple[Batch, torch.Tensor]:
    """A batch, and the second and third content token of every row."""
    batch = model.batch(model.words.encode_texts(TEXTS), prefix="two", suffix=" said")
    where = torch.zeros_like(batch.mask)
    where[:, batch.start + 1 : batch.start + 3] = True
    return batch, where


def result(model: Model, batch: Batch) -> torch.Tensor:
    output = model.forward(model.embed(batch.ids), batch)
    value = output.logits if output.features is None else output.features
    assert value is not None
    if model.kind is ModelKind.CAUSAL:
        value = torch.where(batch.mask[..., None], value, torch.zeros_like(value))
    return value


def losses(model: Model, batch: Batch) -> torch.Tensor:
    """One smooth loss a row, whatever the kind."""
    value = result(model, batch).flatten(1)
    weights = torch.linspace(-1, 1, value.shape[1], dtype=value.dtype, device=value.device)
    return torch.tanh(value / 4) @ weights


@every_family
def test_layers_are_those_of_the_configuration(loaded: Load, family: str) -> None:
    model = loaded(family)
    assert len(model.layers) == 2
    config = model.module.config
    config = getattr(config, "text_config", config)
    wanted = getattr(config, "num_hidden_layers", None)
    assert wanted in (None, len(model.layers))


@every_family
def test_cutting_changes_no_result(loaded: Load, family: str) -> None:
    model = loaded(family)
    batch, where = framed(model)
    expected = result(model, batch)
    with CutStates(model.layers, where) as cut:
        got = result(model, batch)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
    layers = len(model.layers) + 1
    lengths = len(set(batch.totals.tolist())) if family in factory.UNPADDED else 1
    assert len(cut.states) == layers * lengths
    assert sum(state.shape[0] for state in cut.states) == 6 * layers
    torch.testing.assert_close(result(model, batch), expected, atol=0, rtol=0)  # hooks are gone


class Moved(CutStates):
    """The same cut, with something added to the states of one layer."""

    def __init__(self, layers, where, known: list[torch.Tensor], at: int, step: torch.Tensor):
        super().__init__(layers, where)
        self.known, self.at, self.step = known, at, step

    def _cut(self, states: torch.Tensor) -> torch.Tensor:
        here = len(self.states)
        own = self.known[here] + (self.step if here == self.at else 0)
        self.states.append(own)
        return states.index_put(tuple(self._where.nonzero(as_tuple=True)), own)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "bert", "clip", "siglip"])
def test_gradients_are_the_slopes_with_the_other_layers_held(loaded: Load, family: str) -> None:
    """Central differences in float64, one layer moved at a time."""
    model = loaded(family)
    batch, where = framed(model)
    model.module.double()
    try:
        with CutStates(model.layers, where) as cut:
            found = losses(model, batch).sum()
        gradients = torch.autograd.grad(found, cut.states, allow_unused=True)
        known = [state.detach() for state in cut.states]
        generator = torch.Generator().manual_seed(0)
        for at, gradient in enumerate(gradients):
            step = 1e-3 * torch.randn(known[at].shape, generator=generator, dtype=torch.float64)
            ends = []
            for sign in (1, -1):
                with torch.no_grad(), Moved(model.layers, where, known, at, sign * step):
                    ends.append(losses(model, batch).sum())
            slope = (ends[0] - ends[1]) / 2
            if gradient is None:  # nothing reads what no layer comes behind
                assert slope == 0
                continue
            # some families norm in float32, whatever their weights
            allowed = 1e-3 * float(gradient.norm() * step.norm())
            assert float(slope) == pytest.approx(float((gradient * step).sum()), abs=allowed)
    finally:
        model.module.float()


def test_sums_are_by_row_and_layer(loaded: Load) -> None:
    model = loaded("gpt2")
    batch, where = framed(model)
    where[1] = False
    with torch.no_grad(), CutStates(model.layers, where) as cut:
        model.forward(model.embed(batch.ids), batch)
    sums = cut.sums(cut.states)
    width = cut.states[0].shape[1]
    assert sums.shape == (3, 3 * width)
    for layer, state in enumerate(cut.states):
        own = sums[:, layer * width : (layer + 1) * width]
        torch.testing.assert_close(own[0], state[:2].sum(0))
        torch.testing.assert_close(own[2], state[2:].sum(0))
        assert not own[1].any()


def test_layers_that_share_their_weights_are_refused(loaded: Load) -> None:
    """ALBERT calls one layer again and again."""
    config = transformers.AlbertConfig(
        vocab_size=400, embedding_size=16, hidden_size=32, num_attention_heads=4,
        num_hidden_layers=3, intermediate_size=64,
    )  # fmt: skip
    model = loaded("bert")
    kept: nn.Module = model.module
    model.module = transformers.AlbertForSequenceClassification(config).eval()
    batch = model.probe()

    def run() -> None:
        embeds = torch.zeros(*batch.ids.shape, 16)
        model.module(inputs_embeds=embeds, attention_mask=batch.mask.long())

    try:
        with pytest.raises(ModelError, match="no layers found in AlbertForSequenceClass"):
            find_layers(model.module, run, tuple(batch.ids.shape), model.name)
    finally:
        model.module = kept


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "clip"])
def test_gpu_gradients_equal_those_of_the_cpu(loaded: Load, saved: Callable, family: str) -> None:
    from fuse_index.models import load_model

    sums = []
    on_gpu = load_model(str(saved(family)), device="cuda", dtype=torch.float32)
    for model in (loaded(family), on_gpu):
        batch, where = framed(model)
        with CutStates(model.layers, where) as cut:
            found = losses(model, batch).sum()
        gradients = torch.autograd.grad(found, cut.states, allow_unused=True)
        pairs = zip(cut.states, gradients, strict=True)
        sums.append(cut.sums([torch.zeros_like(s) if g is None else g for s, g in pairs]).cpu())
    scale = float(sums[0].abs().max())
    torch.testing.assert_close(sums[1], sums[0], atol=1e-3 * scale, rtol=1e-3)
