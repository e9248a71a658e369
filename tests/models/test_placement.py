"""Networks on several devices, offloaded, and quantized."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fuse_index import load_model, wrap_model
from fuse_index.errors import MissingDependencyError, ModelError, OptionError
from fuse_index.models import Model
from fuse_index.models.placement import require_near_first_layer
from fuse_index.objectives import TargetContinuation
from fuse_index.optimize import GCG, PEZ, Budget, Problem, Term, optimize
from tests.models import factory

needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="needs accelerate"
)
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)
CPU = torch.device("cpu")


def wrapped(net: Any) -> Model:
    return wrap_model(net, factory.tokenizer_of("llama"))


def losses_of(model: Model, method: Any) -> list[float]:
    """What two steps of a method give: gradients, scored candidates, cached prefixes."""
    problem = Problem(model, [Term(TargetContinuation(target=" dog", prefix="a few"), model)])
    start = model.words.encode_text("a brown fox")
    found = optimize(problem, [start], method=method, budget=Budget(steps=2))
    return [point.total for point in found.trajectory]


def weights_of(net: nn.Module) -> Any:
    return [(name, p.device, p.requires_grad) for name, p in net.named_parameters()]


@needs_accelerate
@pytest.mark.parametrize("place", ["cpu", "disk"])
@pytest.mark.parametrize("method", [GCG(search_width=8, top_k=16), PEZ()], ids=["gcg", "pez"])
def test_offloaded(place: str, method: Any, tmp_path: Path) -> None:
    """Weights that are nowhere between two passes: the same losses, and they leave again."""
    import accelerate

    net = factory.build_model("llama").train()
    if place == "cpu":
        accelerate.cpu_offload(net, execution_device=CPU)
    else:
        accelerate.disk_offload(net, str(tmp_path), execution_device=CPU)
    before = weights_of(net)
    assert before[0][1].type == "meta"
    plain = wrapped(factory.build_model("llama"))
    with wrapped(net) as model:
        assert (model.device, model.spread, plain.spread) == (CPU, True, False)
        assert model.identity() == plain.identity()
        assert torch.equal(model.table(), plain.table())
        assert losses_of(model, method) == losses_of(plain, method)
    assert weights_of(net) == before
    assert net.training


@needs_accelerate
def test_offloaded_after_training_flags(tmp_path: Path) -> None:
    """Accelerate replaces the parameters of an offloaded layer in every pass; flags survive it."""
    import accelerate

    net = factory.build_model("llama").requires_grad_(False)
    net.model.layers[0].mlp.requires_grad_(True)
    accelerate.cpu_offload(net, execution_device=CPU)
    before = weights_of(net)
    with wrapped(net) as model:
        model.encode_texts(["a dog"])
    assert weights_of(net) == before


@needs_accelerate
@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, "cpu"])
def test_device_map_by_name(tmp_path: Path, device_map: Any) -> None:
    folder = factory.save_model("llama", tmp_path)
    if device_map == "auto" and torch.cuda.is_available():
        pytest.skip("it would be put on the GPU")
    model = load_model(str(folder), device_map=device_map)
    plain = load_model(str(folder), device="cpu")
    assert model.identity() == plain.identity()
    a, b = (own.encode_texts(["a dog runs"]).logits for own in (model, plain))
    assert torch.equal(a, b)


def test_embeddings_on_another_device_than_the_first_layer() -> None:
    net = factory.build_model("llama")
    require_near_first_layer(net, CPU, "net")
    told = r"net: its input embeddings are on cuda:1 and its first layer on cpu; expected both .*"
    with pytest.raises(ModelError, match=told):
        require_near_first_layer(net, torch.device("cuda:1"), "net")
    net.model.layers.to("meta")
    with pytest.raises(ModelError, match="the weights of LlamaDecoderLayer are on the meta device"):
        wrapped(net)


@needs_accelerate
@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("method", [GCG(search_width=8, top_k=16), PEZ()], ids=["gcg", "pez"])
def test_over_two_devices(method: Any, tmp_path: Path) -> None:
    folder = factory.save_model("llama", tmp_path)
    spread = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.layers.0": 0}
    spread |= {"model.layers.1": 1, "model.norm": 1, "lm_head": 1}
    options = {"dtype": torch.float32}
    model = load_model(str(folder), device_map=spread, **options)
    plain = load_model(str(folder), device="cuda:0", **options)
    assert (model.device, model.spread) == (torch.device("cuda:0"), True)
    wanted = losses_of(plain, method)
    assert losses_of(model, method) == pytest.approx(wanted, abs=1e-4)
    states = [own.layers for own in (model, plain)]
    assert len(states[0]) == len(states[1])
    with wrap_model(model.module, model.tokenizer, kind="encoder") as encoder:
        assert encoder.encode_texts(["a dog"]).features.device == torch.device("cuda:0")
    with pytest.raises(ModelError, match="embeddings are on cuda:0 and its first layer on cuda:1"):
        load_model(str(folder), device_map=spread | {"model.layers.0": 1}, **options)


@needs_accelerate
@pytest.mark.gpu
def test_offloaded_from_a_gpu(tmp_path: Path) -> None:
    import accelerate

    net = accelerate.cpu_offload(factory.build_model("llama"), torch.device("cuda:0"))
    plain = wrapped(factory.build_model("llama").to("cuda:0"))
    with wrapped(net) as model:
        assert model.device == torch.device("cuda:0")
        method = GCG(search_width=8, top_k=16)
        assert losses_of(model, method) == pytest.approx(losses_of(plain, method), abs=1e-4)


@pytest.mark.gpu
def test_the_head_of_a_wrapped_network_keeps_its_weights() -> None:
    net = factory.build_model("gpt2").half().cuda()
    head, keys = net.lm_head, sorted(net.state_dict())
    with wrap_model(net, factory.tokenizer_of("gpt2")) as model:
        assert net.lm_head is head
        assert sorted(net.state_dict()) == keys
        assert net.lm_head._forward_pre_hooks
        losses_of(model, GCG(search_width=8, top_k=16))
    assert not net.lm_head._forward_pre_hooks


def save_wide(folder: Path) -> Path:
    """A network whose layers are wide enough for blocks of 64 weights."""
    import transformers

    tokenizer = factory.tokenizer_of("llama")
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), num_hidden_layers=1, max_position_embeddings=48, **sizes
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@needs_accelerate
@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("quantization", "layer"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")]
)
def test_quantized(tmp_path: Path, quantization: str, layer: str) -> None:
    folder = save_wide(tmp_path)
    loaded = load_model(str(folder), quantization=quantization, device="cpu", dtype=torch.float32)
    plain = load_model(str(folder), device="cpu")
    net: Any = loaded.module
    assert type(net.model.layers[0].mlp.up_proj).__name__ == layer
    assert loaded.identity() == plain.identity()  # embeddings are not quantized
    with wrap_model(net, loaded.tokenizer) as model:
        assert model.identity() == loaded.identity()
        method = GCG(search_width=8, top_k=16)
        assert losses_of(model, method) == pytest.approx(losses_of(plain, method), rel=0.1)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    folder = str(factory.save_model("llama", tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for options, told in (
        ({"quantization": "4bit"}, r"quantization='4bit' without bitsandbytes; .* pip install"),
        ({"quantization": transformers.GPTQConfig(bits=4)}, "a quantized model without accelerate"),
        ({"device_map": "auto"}, "device_map without accelerate"),
    ):
        with pytest.raises(MissingDependencyError, match=told):
            load_model(folder, **options)


@needs_accelerate
def test_quantization_whose_library_is_found_missing_by_transformers(tmp_path: Path) -> None:
    import transformers

    if importlib.util.find_spec("optimum") is not None:
        pytest.skip("optimum is installed")
    folder = str(factory.save_model("llama", tmp_path))
    with pytest.raises(MissingDependencyError, match="need a library that is not installed"):
        load_model(folder, quantization=transformers.GPTQConfig(bits=4), device="cpu")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"quantization": "5bit"}, "quantization 5bit; expected one of 4bit, 8bit"),
        ({"quantization": 4}, "quantization 4; expected '4bit', '8bit', or a quantization"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        load_model(str(factory.save_model("llama", tmp_path)), **options)


@needs_accelerate
def test_options_that_contradict(open_clip_dir: Path) -> None:
    with pytest.raises(OptionError, match="device='cpu' and a device_map; expected one"):
        load_model("x/y", device="cpu", device_map="auto")
    with pytest.raises(OptionError, match="an open_clip model with a device_map or quantization"):
        load_model(f"open_clip:{open_clip_dir}", device_map="auto")
