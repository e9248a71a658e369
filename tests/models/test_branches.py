"""Residual branches found in every family, and gradients scaled in them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fuse_index.errors import ModelError
from fuse_index.models import Model, load_model
from fuse_index.models.branches import find_branches, scaled_branches
from tests.cases import case
from tests.models import factory
from tests.models.test_layers import framed

Load = Callable[..., Model]
FAMILIES = [f for f in factory.FAMILIES if f != "xlnet"]
ONE_A_LAYER = ("mobilebert",)
"""Those whose whole layer is one branch, with others inside."""


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, scale):
        ctx.scale = scale
        return states.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.scale * gradient, None


def scaled(states: Tensor, scale: float) -> Tensor:
    return _Scaled.apply(states, scale)


def gpt2_by_hand(module: nn.Module, embeds: Tensor, scale: float) -> Tensor:
    """The logits of GPT-2, written out, with scaled branches."""
    body = module.transformer
    x = embeds + body.wpe.weight[: embeds.shape[1]]
    heads, mask = 4, torch.full((embeds.shape[1],) * 2, -math.inf).triu(1).to(x)
    for block in body.h:
        q, k, v = (
            own.unflatten(-1, (heads, -1)).transpose(1, 2)
            for own in (block.ln_1(x) @ block.attn.c_attn.weight + block.attn.c_attn.bias).chunk(
                3, dim=-1
            )
        )
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask).softmax(dim=-1)
        mixed = (scores @ v).transpose(1, 2).flatten(2)
        x = x + scaled(mixed @ block.attn.c_proj.weight + block.attn.c_proj.bias, scale)
        inner = block.ln_2(x) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
        inner = nn.functional.gelu(inner, approximate="tanh")
        x = x + scaled(inner @ block.mlp.c_proj.weight + block.mlp.c_proj.bias, scale)
    return body.ln_f(x) @ module.lm_head.weight.T


def bert_by_hand(module: nn.Module, embeds: Tensor, scale: float) -> Tensor:
    """The logits of BERT from its own sublayers, with scaled branches, normalized behind."""
    body = module.bert
    x = body.embeddings(inputs_embeds=embeds)
    for layer in body.encoder.layer:
        own = layer.attention.output
        mixed = layer.attention.self(x)[0]
        x = own.LayerNorm(x + scaled(own.dense(mixed), scale))
        inner = layer.intermediate(x)
        x = layer.output.LayerNorm(x + scaled(layer.output.dense(inner), scale))
    return module.classifier(body.pooler(x))


@pytest.mark.parametrize(("family", "by_hand"), [("gpt2", gpt2_by_hand), ("bert", bert_by_hand)])
def test_gradients_are_those_of_a_model_written_by_hand(saved, family, by_hand) -> None:
    model = load_model(str(saved(family)), device="cpu", dtype=torch.float64)
    batch = model.batch(model.words.encode_texts(["a brown dog runs over the grass"]))
    direction = torch.linspace(-1, 1, model.forward(model.embed(batch.ids), batch).logits.numel())

    def gradient(run: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        embeds = model.embed(batch.ids).requires_grad_()
        logits = run(embeds)
        value = logits.flatten()[: len(direction)] @ direction.to(logits)
        return logits.detach(), torch.autograd.grad(value, embeds)[0]

    found = []
    for scale in (1.0, 0.6):
        with scaled_branches(model.branches, scale):
            logits, own = gradient(lambda embeds: model.forward(embeds, batch).logits)
        rows = model.vocabulary_size if family == "gpt2" else None
        by_self, expected = gradient(
            lambda embeds, scale=scale, rows=rows: by_hand(model.module, embeds, scale)[..., :rows]
        )
        torch.testing.assert_close(logits, by_self)
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-12)
        found.append(own)
    assert (found[0] - found[1]).norm() > 0.1 * found[0].norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_branches_are_found_in_every_family(loaded: Load, family: str) -> None:
    model = loaded(family)
    each = 1 if family in ONE_A_LAYER else 2
    assert len(model.branches) == each * len(model.layers)
    for layer in model.layers:
        assert sum(own in set(layer.modules()) for own in model.branches) == each


@pytest.mark.parametrize("family", ["llama", "gemma3", "falcon", "roberta", "clip"])
def test_a_scale_changes_gradients_alone(loaded: Load, family: str) -> None:
    model = loaded(family)
    batch, _ = framed(model)

    def run() -> tuple[Tensor, Tensor]:
        embeds = model.embed(batch.ids).requires_grad_()
        found = value_of(model, batch, embeds)
        return found.detach(), torch.autograd.grad(found.sum(), embeds)[0]

    value, gradient = run()
    with scaled_branches(model.branches, 0.5):
        kept, smaller = run()
        with torch.no_grad():
            again = value_of(model, batch, model.embed(batch.ids))
            torch.testing.assert_close(again, value, rtol=0, atol=0)
    torch.testing.assert_close(kept, value, rtol=0, atol=0)
    assert not torch.allclose(smaller, gradient)
    torch.testing.assert_close(run()[1], gradient, rtol=0, atol=0)  # hooks are gone


def value_of(model: Model, batch, embeds: Tensor) -> Tensor:
    output = model.forward(embeds, batch)
    value = output.logits if output.features is None else output.features
    if value.ndim == 3:
        value = torch.where(batch.mask[..., None], value, torch.zeros_like(value))
    weights = torch.linspace(-1, 1, value.flatten(1).shape[1])
    return torch.tanh(value.flatten(1) / 4) @ weights


def test_of_open_clip(open_clip_dir) -> None:
    model = load_model(f"open_clip:{open_clip_dir}", device="cpu")
    assert len(model.branches) == 2 * len(model.layers)


class _Block(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.inside = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.inside(x.cumsum(dim=1))
        if self.form == "none":
            return mixed
        if self.form == "no module":
            return x + torch.tanh(mixed)
        if self.form == "mixed before":
            return x.cumsum(dim=1) + mixed
        return x + 0.5 * mixed.clone()


def test_layers_without_branches_are_refused() -> None:
    torch.manual_seed(0)
    for form in ("residual", "none", "no module", "mixed before"):
        layers = nn.Sequential(_Block(form), _Block(form))
        with case(form=form):
            if form == "residual":
                found = find_branches(layers, lambda: layers(torch.randn(1, 3, 8)), "it")  # noqa: B023
                assert found == (layers[0].inside, layers[1].inside)
                continue
            with pytest.raises(ModelError, match="it: the residual branches of _Block cannot be"):
                find_branches(layers, lambda: layers(torch.randn(1, 3, 8)), "it")  # noqa: B023
