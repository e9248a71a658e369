"""Networks that the caller holds in memory: the same model as by name, and given back as found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from torch import nn

from fuse_index import wrap_model
from fuse_index.errors import FuseIndexError, ModelError
from fuse_index.models import Model, ModelKind, load_embeddings, load_model
from fuse_index.models.replacements import replace_slow_modules
from fuse_index.objectives import TargetContinuation
from fuse_index.optimize import GCG, PEZ, Budget, Problem, Term, optimize
from tests.models import factory

TEXTS = ["a brown dog runs", "the quick fox jumps over the lazy dogs!"]
WRAPPED = ("gpt2", "llama", "qwen3", "gemma3", "opt", "bert", "roberta", "clip", "siglip")
Load = Callable[..., Model]
Saved = Callable[[str], Path]


def from_folder(folder: Path, auto: str, **options: Any) -> tuple[Any, Any]:
    """Load a network and its tokenizer as a user of transformers does."""
    import transformers

    net = getattr(transformers, auto).from_pretrained(folder, **options)
    return net, transformers.AutoTokenizer.from_pretrained(folder)


def auto_of(family: str) -> str:
    kinds = {
        **dict.fromkeys(factory.CAUSAL, "AutoModelForCausalLM"),
        **dict.fromkeys(factory.CLASSIFIERS, "AutoModelForSequenceClassification"),
    }
    return kinds.get(family, "AutoModel")


def result(model: Model, texts: list[str] = TEXTS) -> torch.Tensor:
    output = model.encode_texts(texts)
    value = output.logits if output.features is None else output.features
    assert value is not None
    return value


def state_of(net: nn.Module, tokenizer: Any) -> Any:
    """Everything of a network and tokenizer that must be as it was."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {
        "modules": [(name, id(part), part.training) for name, part in net.named_modules()],
        "weights": [(name, p.requires_grad, p._version) for name, p in net.named_parameters()],
        "hooks": [[dict(getattr(part, own)) for own in hooks] for part in net.modules()],
        "own": [sorted(vars(part)) for part in net.modules()],
        "grads": [p.grad is None for p in net.parameters()],
        "config": net.config.to_dict() if hasattr(net, "config") else None,
        "tokenizer": (
            getattr(tokenizer, "padding_side", None),
            len(getattr(tokenizer, "vocab", "")),
        ),
        "backend": backend and (backend.to_str(), backend.padding, backend.truncation),
    }


@pytest.mark.smoke
@pytest.mark.parametrize("family", WRAPPED)
def test_wrapped_equals_loaded(loaded: Load, saved: Saved, family: str) -> None:
    net, tokenizer = from_folder(saved(family), auto_of(family))
    replace_slow_modules(net)  # as loading does; a network of somebody else is left as it is
    mine, theirs = wrap_model(net, tokenizer), loaded(family)
    assert (mine.kind, mine.frame, mine.positions) == (theirs.kind, theirs.frame, theirs.positions)
    assert mine.identity() == theirs.identity()
    assert torch.equal(mine.table(), theirs.table())
    assert torch.equal(result(mine), result(theirs))
    if mine.kind is ModelKind.CLIP:
        picture = PIL.Image.new("RGB", (40, 30), "red")  # by the processor beside the checkpoint
        assert torch.equal(mine.encode_image(picture), theirs.encode_image(picture))


def test_open_clip(open_clip_dir: Path) -> None:
    import open_clip

    theirs = load_model(f"open_clip:{open_clip_dir}", device="cpu")
    net, _, transform = open_clip.create_model_and_transforms(f"local-dir:{open_clip_dir}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{open_clip_dir}")
    before = state_of(net.train(), tokenizer)
    picture = PIL.Image.new("RGB", (40, 30), "red")
    for processor in (None, transform):
        with wrap_model(net, tokenizer, processor=processor, name="mine") as mine:
            assert not mine.identity().differences(theirs.identity())
            assert mine.name == "mine"
            assert torch.equal(result(mine), result(theirs))
            assert torch.equal(mine.encode_image(picture), theirs.encode_image(picture))
    assert state_of(net, tokenizer) == before
    with pytest.raises(ModelError, match=r"expected a tokenizer of open_clip; give open_clip.get"):
        wrap_model(net, factory.tokenizer_of("clip"))
    with pytest.raises(ModelError, match=r"a CLIP as kind 'causal'"):
        wrap_model(net, tokenizer, kind="causal")


@pytest.mark.parametrize("method", [GCG(search_width=8, top_k=16), PEZ()], ids=["gcg", "pez"])
def test_given_back_as_it_was(method: Any) -> None:
    """Frozen only in use: dropout, gradients, hooks and the tokenizer's padding come back."""
    net, tokenizer = factory.build_model("llama"), copy.deepcopy(factory.tokenizer_of("llama"))
    tokenizer.padding_side = "left"
    tokenizer(["a", "a dog runs"], padding=True, truncation=True, max_length=7)
    net.train()
    net.model.layers[1].eval()
    net.model.layers[0].mlp.requires_grad_(False)
    net.lm_head.register_forward_hook(lambda *_: None)
    ids = torch.tensor([[1, 300, 301, 302]])
    with torch.no_grad():
        before, logits = state_of(net, tokenizer), net(input_ids=ids).logits
    with wrap_model(net, tokenizer) as model:
        assert not any(part.training for part in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
        problem = Problem(model, [Term(TargetContinuation(target=" dog"), model)])
        start = model.words.encode_text("a brown fox")
        optimize(problem, [start], method=method, budget=Budget(steps=2))
    assert state_of(net, tokenizer) == before
    with torch.no_grad():
        assert torch.equal(net(input_ids=ids).logits, logits)
    with pytest.raises(ModelError, match=r"given back by release\(\); .* wrap the module again"):
        model.encode_texts(["a dog"])
    with pytest.raises(ModelError, match="given back"):
        model.prefill([1])


@pytest.mark.parametrize("first", [0, 1])
def test_two_models_of_one_network(first: int) -> None:
    """Its state returns when the last of them is done, whichever that is."""
    net, tokenizer = factory.build_model("llama").train(), factory.tokenizer_of("llama")
    before = state_of(net, tokenizer)
    models = wrap_model(net, tokenizer), wrap_model(net.model, tokenizer)
    assert [model.kind for model in models] == [ModelKind.CAUSAL, ModelKind.ENCODER]
    models[first].release()
    models[first].release()  # twice does nothing
    assert not net.model.layers[0].training
    result(models[1 - first])
    models[1 - first].release()
    assert state_of(net, tokenizer) == before


def test_a_network_that_is_refused_is_as_it_was() -> None:
    net, tokenizer = factory.build_model("llama").train(), factory.tokenizer_of("llama")
    net.get_input_embeddings().weight.data[300, 3] = torch.nan
    before = state_of(net, tokenizer)
    with pytest.raises(ModelError, match="hold NaN or infinity"):
        wrap_model(net, tokenizer)
    assert state_of(net, tokenizer) == before


def test_without_a_head(loaded: Load) -> None:
    bert = wrap_model(factory.build_model("bert"), factory.tokenizer_of("bert"), kind="encoder")
    assert torch.equal(result(bert), result(loaded("bert", "encoder")))
    net = factory.build_model("gpt2").transformer
    replace_slow_modules(net)
    lm = wrap_model(net, factory.tokenizer_of("gpt2"))
    assert lm.kind is ModelKind.ENCODER
    assert torch.equal(result(lm), result(loaded("gpt2", "encoder")))


def test_processor_instead_of_a_tokenizer(loaded: Load) -> None:
    class Processor:
        tokenizer = factory.tokenizer_of("clip")

        @staticmethod
        def image_processor(images: list[Any], return_tensors: str) -> Any:
            return {"pixel_values": torch.ones(len(images), 3, 32, 32)}

    model: Any = wrap_model(factory.build_model("clip"), Processor())
    picture = PIL.Image.new("RGB", (40, 30), "red")
    theirs: Any = loaded("clip")
    assert torch.equal(model.encode_image(picture), theirs.encode_image(torch.ones(3, 32, 32)))
    bare: Any = wrap_model(factory.build_model("clip"), factory.tokenizer_of("clip"))
    with pytest.raises(ModelError, match=r"no image processor; .* wrap_model\(..., processor=\)"):
        bare.encode_image(picture)


def test_compiled_and_parallel_networks(loaded: Load) -> None:
    for around in (nn.DataParallel, lambda net: torch.compile(net, backend="eager")):
        net = around(factory.build_model("llama").train())
        with wrap_model(net, factory.tokenizer_of("llama")) as model:
            assert torch.equal(result(model), result(loaded("llama")))
        assert net.training
        assert all(part.training for part in net.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_what_is_stored_or_is_not_compared(
    saved: Saved, tmp_path: Path, dtype: torch.dtype
) -> None:
    """As for names: an embedding hash where the values are those on disk, else none."""
    narrowed = wrap_model(*from_folder(saved("llama"), auto_of("llama"), dtype=dtype))
    assert narrowed.dtype is dtype
    assert (
        narrowed.identity() == load_model(str(saved("llama")), device="cpu", dtype=dtype).identity()
    )
    assert narrowed.identity().embedding_hash == ""
    with pytest.raises(
        ModelError, match=r"are in b?float16 and stored in more; .* give the model's"
    ):
        load_embeddings(narrowed)
    factory.build_model("llama").to(dtype).save_pretrained(tmp_path)
    factory.tokenizer_of("llama").save_pretrained(tmp_path)
    as_stored = wrap_model(*from_folder(tmp_path, auto_of("llama"), dtype=dtype))
    assert as_stored.identity() == load_embeddings(str(tmp_path)).identity
    made_here = wrap_model(factory.build_model("llama").to(dtype), factory.tokenizer_of("llama"))
    assert made_here.name == "LlamaForCausalLM"
    assert made_here.identity().embedding_hash == as_stored.identity().embedding_hash


def test_fine_tuned_in_memory_is_another_model(saved: Saved) -> None:
    net, tokenizer = from_folder(saved("llama"), auto_of("llama"))
    net.get_input_embeddings().weight.data[300] += 1
    model = wrap_model(net, tokenizer)
    assert model.name == str(saved("llama"))
    named = load_embeddings(str(saved("llama"))).identity
    assert "other embedding values" in model.identity().differences(named)[0]


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_added_tokens_and_resized_tables(family: str) -> None:
    """Tied heads and scaled tables too: the new tokens have rows, columns and can be drawn."""
    net, tokenizer = factory.build_model(family), copy.deepcopy(factory.tokenizer_of(family))
    size = len(tokenizer)
    tokenizer.add_tokens(["dogboat"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    with pytest.raises(ModelError, match=r"without resize_token_embeddings\(\)"):
        wrap_model(net, tokenizer)
    net.resize_token_embeddings(size + 8)
    model = wrap_model(net, tokenizer)
    assert (model.vocabulary_size, model.unused_rows) == (size + 2, 6)
    ids = model.words.encode_text("a dogboat runs")
    assert size in ids
    assert model.words.encode_text("<|user|>") != [size + 1]
    batch = model.batch([ids])
    with torch.no_grad():
        expected = net(input_ids=batch.ids).logits[..., : size + 2]
        got = model.forward(model.table()[batch.ids], batch).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def encoder_decoder() -> Any:
    import transformers

    config = transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, vocab_size=600)
    return transformers.T5ForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nn.Linear(2, 2), "a module of type Linear; expected a causal language model, .*"),
        (lambda: "gpt2", "a module of type str; expected a causal language model, .*"),
        (encoder_decoder, "an encoder-decoder model .*"),
        (lambda: factory.build_model("llama").to("meta"), "the weights of .* the meta device; .*"),
    ],
    ids=["unknown", "name", "encoder-decoder", "meta"],
)
def test_refused(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(FuseIndexError, match=told) as caught:
        wrap_model(make(), factory.tokenizer_of("llama"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "kind"), [("gpt2", "classifier"), ("bert", "causal"), ("clip", "encoder")]
)
def test_wrong_kind(family: str, kind: str) -> None:
    with pytest.raises(ModelError, match=rf"as kind '{kind}'; .* leave the kind out"):
        wrap_model(factory.build_model(family), factory.tokenizer_of(family), kind=kind)


def test_tokenizer_of_another_model() -> None:
    with pytest.raises(ModelError, match="tokenizer is of another model"):
        wrap_model(factory.build_model("bert"), factory.tokenizer_of("llama"))
