"""Cached beginnings of prompts: the same as computing them anew, in every causal family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fuse_index.errors import ModelError, OptionError
from fuse_index.models import Model
from fuse_index.models.causal import CausalModel
from tests.models import factory

Load = Callable[..., Model]
every_causal = pytest.mark.parametrize("family", factory.CAUSAL)


@every_causal
@pytest.mark.parametrize("prefix", ["two", "two children play with a wooden boat"])
def test_cached_prefix_equals_the_full_forward(loaded: Load, family: str, prefix: str) -> None:
    model = loaded(family)
    assert isinstance(model, CausalModel)
    batch = model.batch(model.words.encode_texts([" a dog", " the river bank."]), prefix=prefix)
    cached = model.prefill(batch.shared[:-1] if len(batch.shared) > 1 else batch.shared)
    before = [layer.keys.clone() for layer in cached.cache.layers]
    embeds = model.embed(batch.ids).requires_grad_()
    full, part = model.forward(embeds, batch), model.forward(embeds, batch, prefix=cached)
    assert full.logits is not None
    assert part.logits is not None
    assert part.start == len(cached)
    mask = batch.mask[:, part.start :]
    ours, theirs = part.logits[mask], full.logits[:, part.start :][mask]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    (ours_grad,) = torch.autograd.grad(ours.square().sum(), embeds)
    (theirs_grad,) = torch.autograd.grad(theirs.square().sum(), embeds)
    difference = (ours_grad - theirs_grad)[batch.content].abs().max()
    assert difference < 1e-4 * theirs_grad.abs().max()
    again = model.forward(embeds, batch, prefix=cached)
    assert again.logits is not None
    assert torch.equal(again.logits, part.logits), "the stored cache must not change"
    for keys, layer in zip(before, cached.cache.layers, strict=True):
        assert torch.equal(keys, layer.keys)


@every_causal
def test_cut_prefix_equals_a_shorter_prefill(loaded: Load, family: str) -> None:
    model = loaded(family)
    assert isinstance(model, CausalModel)
    batch = model.batch([model.words.encode_text("a brown dog runs over the grass")])
    whole = model.prefill(batch.shared[:-1])
    if not whole.complete:
        with pytest.raises(ModelError, match="sliding window"):
            whole.cut(2)
        whole = model.prefill(batch.shared[:3])
    cut = whole.cut(2)
    assert cut.ids == batch.shared[:2]
    part = model.forward(model.embed(batch.ids), batch, prefix=cut).logits
    full = model.forward(model.embed(batch.ids), batch, logits_from=2).logits
    assert part is not None
    assert full is not None
    torch.testing.assert_close(part, full, atol=1e-5, rtol=1e-5)
    with pytest.raises(OptionError, match="cut"):
        whole.cut(0)


@every_causal
def test_a_prefix_can_be_prolonged_and_keep_its_logits(loaded: Load, family: str) -> None:
    model = loaded(family)
    assert isinstance(model, CausalModel)
    batch = model.batch([model.words.encode_text("a brown dog runs over the grass")])
    full = model.forward(model.embed(batch.ids), batch).logits
    assert full is not None
    short = model.prefill(batch.shared[:2])
    assert short.logits is None
    longer = model.prefill(batch.shared[:-1], prefix=short, logits_from=3)
    assert longer.logits is not None
    torch.testing.assert_close(longer.logits, full[0, 3:-1], atol=1e-5, rtol=1e-5)
    last = model.forward(model.embed(batch.ids), batch, prefix=longer).logits
    torch.testing.assert_close(last, full[:, -1:], atol=1e-5, rtol=1e-5)
    with pytest.raises(OptionError, match="logits_from=1; expected 2 to"):
        model.prefill(batch.shared, prefix=short, logits_from=1)
    with pytest.raises(ModelError, match="does not begin with"):
        model.prefill([9, *batch.shared], prefix=short)


@pytest.mark.gpu
@every_causal
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gpu_cached_prefix(saved: Callable[[str], Path], family: str, dtype: torch.dtype) -> None:
    from fuse_index.models import load_model

    model = load_model(str(saved(family)), device="cuda", dtype=dtype)
    assert isinstance(model, CausalModel)
    batch = model.batch(model.words.encode_texts([" a dog", " the river bank."]), prefix="two")
    cached = model.prefill(batch.shared[:-1] if len(batch.shared) > 1 else batch.shared)
    full = model.forward(model.embed(batch.ids), batch, logits_from=len(cached)).logits
    part = model.forward(model.embed(batch.ids), batch, prefix=cached).logits
    assert full is not None
    assert part is not None
    mask = batch.mask[:, len(cached) :]
    scale = float(full[mask].abs().max())
    tolerance = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    assert float((full - part)[mask].abs().max()) < tolerance * scale
