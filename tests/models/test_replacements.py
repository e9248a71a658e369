"""Replaced modules compute what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fuse_index.models import load_model
from fuse_index.models.replacements import OutputLayer, replace_slow_modules
from tests.models import factory


@pytest.mark.parametrize("outputs", [7, 8, 257])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_output_layer_equals_the_layer(outputs: int, bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, outputs, bias=bias).to(dtype)
    replaced = OutputLayer(layer)
    states = torch.randn(2, 5, 16, dtype=dtype)
    for given in (states, states[:, 2:]):
        torch.testing.assert_close(replaced(given), layer(given), rtol=1e-2, atol=1e-2)
        assert replaced(given).shape == layer(given).shape


def test_pads_odd_layers_in_half_precision_only() -> None:
    odd, even = nn.Linear(4, 9), nn.Linear(4, 16).to(torch.bfloat16)
    assert OutputLayer(odd).weight is odd.weight
    assert OutputLayer(even).weight is even.weight
    assert OutputLayer(odd.to(torch.float16)).weight.shape == (16, 4)


def test_a_cpu_keeps_the_output_layer_and_gets_the_fast_gelu() -> None:
    net = factory.build_model("gpt2")
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = net(input_ids=ids).logits
        replace_slow_modules(net)
        got = net(input_ids=ids).logits
    names = {type(part).__name__ for part in net.modules()}
    assert "GELU" in names
    assert not names & {"NewGELUActivation", "OutputLayer"}
    assert (got - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", factory.CAUSAL)
def test_logits_stay(saved: Callable[[str], Path], family: str, dtype: torch.dtype) -> None:
    model = load_model(str(saved(family)), device="cuda", dtype=dtype)
    batch = model.batch(model.words.encode_texts(["a brown dog runs", "grass"]))
    got = model.forward(model.embed(batch.ids), batch).logits
    net = factory.build_model(family).to("cuda", dtype)
    names = {type(part).__name__ for part in model.module.modules()}
    assert "NewGELUActivation" not in names
    with torch.no_grad():
        expected = net(input_ids=batch.ids[:1, : int(batch.totals[0])]).logits
    assert got is not None
    mine = got[:1, : expected.shape[1]].double()
    wanted = expected[..., : mine.shape[-1]].double()
    assert (mine - wanted).norm() <= (1e-5 if dtype == torch.float32 else 2e-2) * wanted.norm()
