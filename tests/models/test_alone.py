"""The law: a row gives the same alone and in any batch, in every family and kind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fuse_index.errors import ModelError
from fuse_index.models import Model, ModelKind, load_model, wrap_model
from fuse_index.models.batch import Batch
from fuse_index.models.lengths import stated_padding_limit
from tests.models import factory
from tests.models.test_clip import COCA_CONFIG, CUSTOM_CONFIG, SIGLIP_CONFIG, library_features

Load = Callable[..., Model]
KINDS = [
    *((family, None) for family in factory.FAMILIES),
    *((family, "encoder") for family in factory.FAMILIES if family not in factory.TOWERS),
]
every_kind = pytest.mark.parametrize(("family", "kind"), KINDS)
few = settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = st.lists(st.lists(st.integers(0, 199), min_size=1, max_size=18), min_size=1, max_size=5)


def values(model: Model, batch: Batch, embeds: torch.Tensor) -> torch.Tensor:
    output = model.forward(embeds * 1, batch)  # CTRL scales what it is given in place
    value = output.logits if output.features is None else output.features
    assert value is not None
    return value


def check_rows(model: Model, rows: list[list[int]]) -> None:
    """Results and gradients of rows together are those of every row alone."""
    batch = model.batch(rows)
    embeds = model.embed(batch.ids).requires_grad_()
    together = values(model, batch, embeds)
    causal = model.kind is ModelKind.CAUSAL
    kept = together[batch.mask] if causal else together
    (gradient,) = torch.autograd.grad(kept.sin().sum(), embeds)
    for index, row in enumerate(rows):
        single = model.batch([row])
        own = model.embed(single.ids).requires_grad_()
        alone = values(model, single, own)[0]
        length = int(single.totals)
        got = together[index, :length] if causal else together[index]
        expected = alone[:length] if causal else alone
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(got, expected, atol=1e-5 * scale, rtol=1e-4)
        (slope,) = torch.autograd.grad(expected.sin().sum(), own)
        size = float(slope[0, :length].abs().max())
        torch.testing.assert_close(
            gradient[index, :length], slope[0, :length], atol=1e-3 * size, rtol=1e-3
        )
        assert not gradient[index, length:].any()


@every_kind
@few
@given(rows=ROWS)
def test_a_row_gives_the_same_alone_and_in_any_batch(
    loaded: Load, family: str, kind: str | None, rows: list[list[int]]
) -> None:
    check_rows(loaded(family, kind), rows)


def test_only_the_families_that_need_it_run_by_length(loaded: Load) -> None:
    """Rows of equal length cost more passes, so that no model may do so for rounding."""
    by_length = {(f, k) for f, k in KINDS if loaded(f, k).padding_limit == 0}
    both = [(family, kind) for family in factory.UNPADDED for kind in (None, "encoder")]
    assert by_length <= set(both)
    assert {(family, None) for family in factory.UNPADDED} <= by_length
    assert all(loaded(f, k).padding_limit is None for f, k in KINDS if (f, k) not in by_length)


def test_it_is_told_in_the_log(
    saved: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fuse_index"):
        load_model(str(saved("fnet")), device="cpu")
    assert "padding changes its results; rows run by length" in caplog.text


@pytest.mark.parametrize("family", ["gpt2", "bert", "clip", *factory.UNPADDED])
def test_wrapped_networks_are_checked_as_loaded_ones(loaded: Load, family: str) -> None:
    with wrap_model(factory.build_model(family), factory.tokenizer_of(family)) as model:
        assert model.padding_limit == loaded(family).padding_limit
        check_rows(model, [[100, 110, 120], [130] * 9, [140]])


CLASSIFIERS: dict[str, dict[str, Any]] = {
    "CTRL": {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64},
    "Nystromformer": {**factory.SIZES, "num_landmarks": 4, "segment_means_seq_len": 4},
    "ModernBertDecoder": factory.SIZES,
    "DebertaV2": {**factory.SIZES, "relative_attention": True},
    "Funnel": {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    "XLM": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "MPNet": factory.SIZES,
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48},
}


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_other_classifiers(tmp_path: Path, family: str) -> None:
    """Whose heads read the last position, whose landmarks average over padding, and others."""
    if not hasattr(transformers, f"{family}ForSequenceClassification"):
        pytest.skip("newer than this transformers")
    tokenizer = factory.tokenizer_of("bert")
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), pad_token_id=0, num_labels=3, **CLASSIFIERS[family]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = getattr(transformers, f"{family}ForSequenceClassification")(config)
        for weight in net.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.2)
    net.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    # a Nystromformer takes lengths that its landmarks divide
    size = 4 if family == "Nystromformer" else 1
    rows = [list(range(10, 10 + 2 * size)), list(range(30, 30 + 14)), list(range(10, 10 + 10))]
    check_rows(model, rows)


def test_rotary_frequencies_of_the_longest_row(tmp_path: Path) -> None:
    """Phi-3's "longrope" takes other ones for all rows as soon as one is long."""
    model = load_model(str(factory.save_longrope(tmp_path)), device="cpu")
    assert model.padding_limit == factory.LONG_FROM
    short, long = list(range(300, 306)), list(range(300, 330))
    check_rows(model, [short, long, short[:3]])
    assert not model.splits(model.batch([short, long[:12]]))
    assert model.splits(model.batch([short, long]))
    batch = model.batch([short, long])
    padded = model._forward(model.embed(batch.ids), batch, None, 0).logits
    assert padded is not None
    right = values(model, batch, model.embed(batch.ids))
    assert (padded - right)[0, :7].abs().max() > 1e-2  # what there would be without


@pytest.mark.parametrize(
    ("given_config", "limit"),
    [
        ({"rope_parameters": {"rope_type": "default"}}, None),
        ({"rope_scaling": None}, None),
        ({"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 8}}, 8),
        ({"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 9}, 9),
        ({"rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 8}}, None),
        (
            {
                "rope_parameters": {
                    "full_attention": {
                        "rope_type": "longrope",
                        "original_max_position_embeddings": 7,
                    },
                    "sliding_attention": {"rope_type": "default"},
                }
            },
            7,
        ),
        ({"rope_parameters": {"rope_type": "dynamic"}}, None),
    ],
)
def test_stated_limits(given_config: dict[str, Any], limit: int | None) -> None:
    class Config:
        pass

    config = Config()
    vars(config).update(given_config)
    assert stated_padding_limit(config) == limit


class Mixing(nn.Module):
    """A layer whose rows see each other, as those of normalization over a batch do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(states)
        return found - found.mean(dim=0, keepdim=True) / 2


def test_rows_that_see_each_other_are_refused(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*args: Any, **kwargs: Any) -> Any:
        module, info = original(*args, **kwargs)
        module.classifier = Mixing(module.classifier)
        return module, info

    original = transformers.AutoModelForSequenceClassification.from_pretrained
    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", build)
    with pytest.raises(ModelError) as error:
        load_model(str(saved("bert")), device="cpu")
    assert str(error.value).endswith(
        "BertForSequenceClassification computes something else from a text in a batch than from "
        "the text alone; expected a model whose result for a text depends on nothing else; choose "
        "another model"
    )


OPEN_CLIPS = {
    "causal": factory.OPEN_CLIP_CONFIG,
    "custom": CUSTOM_CONFIG,
    "siglip": SIGLIP_CONFIG,
    "coca": COCA_CONFIG,
}


@pytest.mark.parametrize("name", OPEN_CLIPS)
def test_towers_of_open_clip(tmp_path: Path, name: str) -> None:
    model = load_model(f"open_clip:{factory.save_open_clip(tmp_path, OPEN_CLIPS[name])}")
    assert model.padding_limit is None
    check_rows(model, [[500, 600, 700], [800] * 15, [900], [600, 500]])


def test_a_tower_that_padding_changes_runs_at_full_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As open_clip itself runs it, whose features are the right ones."""
    from open_clip.hf_model import arch_dict

    monkeypatch.setitem(arch_dict, "mobilebert", arch_dict["bert"])
    tower = factory.save_model("mobilebert", tmp_path / "tower")
    config = {
        "embed_dim": 16,
        "vision_cfg": factory.OPEN_CLIP_CONFIG["vision_cfg"],
        "text_cfg": {
            "hf_model_name": str(tower),
            "hf_tokenizer_name": str(tower),
            "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler",
            "context_length": 20,
        },
    }
    folder = factory.save_open_clip(tmp_path / "clip", config)
    factory.tokenizer_of("mobilebert").save_pretrained(folder)
    model = load_model(f"open_clip:{folder}", device="cpu")
    assert (model.frame.width, model.padding_limit) == (20, None)
    texts = ["a brown dog", "two children play with a wooden boat"]
    got = model.encode_texts(texts).features
    assert got is not None
    torch.testing.assert_close(got, library_features(folder, texts), atol=1e-5, rtol=1e-5)
    check_rows(model, [[50, 60, 70], [80] * 15, [90]])
