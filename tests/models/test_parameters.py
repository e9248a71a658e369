"""The parameters that a token passes: against the formula of each family, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from fuse_index.errors import ModelError
from fuse_index.models import Model, load_model, wrap_model
from fuse_index.models.parameters import active_parameters
from tests.models import factory

Load = Callable[..., Model]


@pytest.mark.parametrize("family", [f for f in factory.FAMILIES if f not in factory.TOWERS])
def test_all_but_embeddings_count(loaded: Load, family: str) -> None:
    model = loaded(family)
    assert model.active_parameters == model.module.num_parameters(exclude_embeddings=True)


def test_a_llama_counts_by_its_formula(loaded: Load) -> None:
    width, inner = factory.WIDTH, 64
    attention = 2 * width * width + 2 * width * (width // 2)
    layer = attention + 3 * width * inner + 2 * width
    head = loaded("llama").module.lm_head.weight.numel()  # not shared with the embeddings
    assert loaded("llama").active_parameters == 2 * layer + width + head


@pytest.mark.parametrize("family", factory.TOWERS)
def test_of_two_towers_that_of_the_text_counts(loaded: Load, family: str) -> None:
    module = loaded(family).module
    tables = {
        id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    expected = sum(p.numel() for p in module.text_model.parameters() if id(p) not in tables)
    if family == "clip":
        expected += module.text_projection.weight.numel()
    own = sum(p.numel() for p in module.parameters(recurse=False))  # the scale of the logits
    assert loaded(family).active_parameters == expected + own


def test_of_open_clip_too(open_clip_dir: Path) -> None:
    model = load_model(f"open_clip:{open_clip_dir}", device="cpu")
    module: Any = model.module
    blocks = sum(p.numel() for p in module.transformer.parameters())
    norm = sum(p.numel() for p in module.ln_final.parameters())
    own = module.text_projection.numel() + module.logit_scale.numel()
    assert model.active_parameters == blocks + norm + own


def mixture(**changes: Any) -> Any:
    config = transformers.MixtralConfig(
        vocab_size=len(factory.tokenizer_of("llama")),
        num_local_experts=4,
        num_experts_per_tok=1,
        **factory.GROUPED,
        **changes,
    )
    return transformers.MixtralForCausalLM(config)


def test_of_experts_those_count_that_a_token_is_sent_to() -> None:
    with wrap_model(mixture(), factory.tokenizer_of("llama"), name="mixture") as model:
        sizes = {name: p.numel() for name, p in model.module.named_parameters()}
        experts = sum(size for name, size in sizes.items() if ".experts." in name)
        rest = sum(sizes.values()) - experts - sizes["model.embed_tokens.weight"]
        assert experts > rest / 2
        assert model.active_parameters == rest + experts // 4
        del model.active_parameters
        model.module.config.num_experts_per_tok = 0
        with pytest.raises(
            ModelError,
            match=r"mixture: its parameters cannot be counted: .* how many experts .*; give",
        ):
            _ = model.active_parameters


def test_quantized_models_count_by_their_configuration(saved: Callable[[str], Path]) -> None:
    model = load_model(str(saved("llama")), device="cpu")
    expected = model.active_parameters
    del model.active_parameters
    layer = model.module.model.layers[0].mlp
    layer.up_proj.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    layer.up_proj.forward = lambda states: states.repeat(1, 1, 2)
    assert model.active_parameters < expected
    del model.active_parameters
    model.module.config.quantization_config = {"bits": 4}
    assert model.active_parameters == expected
    del model.active_parameters
    model.module.config.hidden_act = "none of them"
    with pytest.raises(ModelError, match="cannot be counted: LlamaForCausalLM is quantized, and"):
        _ = model.active_parameters


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(
        ModelError, match="empty: its parameters cannot be counted: Identity has no"
    ):
        active_parameters(nn.Identity(), lambda: None, "empty")
