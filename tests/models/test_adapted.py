"""PEFT adapters on wrapped networks: what runs is the network with its adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fuse_index import wrap_model
from fuse_index.errors import ModelError
from fuse_index.models import Model, ModelKind
from fuse_index.models.contents import weights_hash, weights_version
from tests.models import factory

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TARGETS: dict[str, dict[str, Any]] = {
    "layers": {"target_modules": ["q_proj", "v_proj"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "saved embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "trained tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [300, 301]},
}


def adapted(family: str = "llama", task: str = "CAUSAL_LM", **options: Any) -> Any:
    config = peft.LoraConfig(
        task_type=task, r=4, lora_dropout=0.5, init_lora_weights=False, **options
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return peft.get_peft_model(factory.build_model(family), config)


def logits(model: Model, ids: torch.Tensor) -> torch.Tensor:
    batch = model.batch([ids[0, 1:].tolist()])
    assert torch.equal(batch.ids, ids)
    found = model.forward(model.embed(ids), batch).logits
    assert found is not None
    return found


@pytest.mark.parametrize("options", TARGETS.values(), ids=list(TARGETS))
def test_not_merged_and_merged(options: dict[str, Any]) -> None:
    net, tokenizer = adapted(**options).train(), factory.tokenizer_of("llama")
    flags = {name: p.requires_grad for name, p in net.named_parameters()}
    ids = torch.tensor([[1, 300, 301, 302]])
    plain = wrap_model(factory.build_model("llama"), tokenizer)
    with wrap_model(net, tokenizer) as model, torch.no_grad():
        wanted = net(input_ids=ids).logits[..., : model.vocabulary_size]
        assert torch.equal(logits(model, ids), wanted)
        assert torch.equal(model.embed(ids)[0], model.table()[ids[0]])
        assert float((wanted - logits(plain, ids)).abs().max()) > 1e-2
        before = model.identity()
    assert net.training
    assert {name: p.requires_grad for name, p in net.named_parameters()} == flags
    trained = before.differences(plain.identity())
    assert bool(trained) is (options is TARGETS["embeddings"])
    merged = wrap_model(net.merge_and_unload(), tokenizer)
    torch.testing.assert_close(logits(merged, ids), wanted, atol=2e-5, rtol=1e-4)


def test_a_classifier_with_its_own_head() -> None:
    """The head is kept by PEFT in a wrapper; a causal one reads each row's own last token."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=len(factory.tokenizer_of("llama")),
        num_labels=3,
        pad_token_id=3,
        **factory.GROUPED,
    )
    net = transformers.LlamaForSequenceClassification(config).eval()
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"])
    model = wrap_model(peft.get_peft_model(net, lora), factory.tokenizer_of("llama"))
    assert model.kind is ModelKind.CLASSIFIER
    rows = [[300, 301], [300, 301, 302, 303]]
    batch = model.batch(rows)
    together = model.forward(model.embed(batch.ids), batch).logits
    for row, ids in enumerate(rows):
        alone = net(input_ids=torch.tensor([[1, *ids]])).logits
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_kept_states_are_of_the_adapters_that_are_on() -> None:
    net = adapted(**TARGETS["layers"])
    model = wrap_model(net, factory.tokenizer_of("llama"))
    version, key = weights_version(model), weights_hash(model)
    assert weights_version(model) == version
    with net.disable_adapter():
        assert weights_version(model) != version
        assert weights_hash(model) != key
    assert (weights_version(model), weights_hash(model)) == (version, key)


def test_virtual_tokens_are_refused() -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    net = peft.get_peft_model(factory.build_model("llama"), config)
    with pytest.raises(ModelError, match=r"virtual tokens \(PROMPT_TUNING\); expected .* LoRA"):
        wrap_model(net, factory.tokenizer_of("llama"))
