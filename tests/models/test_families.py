"""What every family must do, on random-weight models built from the real configuration classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fuse_index.errors import ModelError, OptionError, ShapeError
from fuse_index.models import Model, ModelKind, load_embeddings
from fuse_index.models.base import ModelParts
from fuse_index.models.batch import Batch
from fuse_index.models.causal import CausalModel
from fuse_index.models.encoder import ClassifierModel
from tests.models import factory
from tests.models.test_clip import pooled

TEXTS = [
    "a brown dog runs",
    "the quick fox jumps over the lazy dogs!",
    "grass",
]
Load = Callable[..., Model]
every_family = pytest.mark.parametrize("family", factory.FAMILIES)
every_causal = pytest.mark.parametrize("family", factory.CAUSAL)
every_classifier = pytest.mark.parametrize("family", factory.CLASSIFIERS)


def result(model: Model, batch: Batch, embeds: torch.Tensor | None = None) -> torch.Tensor:
    """Logits or features, for whatever kind."""
    output = model.forward(model.embed(batch.ids) if embeds is None else embeds, batch)
    value = output.logits if output.features is None else output.features
    assert value is not None
    return value


def framed(model: Model, texts: list[str] = TEXTS) -> Batch:
    return model.batch(model.words.encode_texts(texts), prefix="two", suffix=" said")


@pytest.mark.smoke
@every_family
def test_equals_the_library_on_token_ids(loaded: Load, family: str) -> None:
    """One row at a time, without padding, straight from ids by the library's own forward."""
    model = loaded(family)
    net = factory.build_model(family)
    batch = framed(model)
    got = result(model, batch)
    for row in range(len(batch)):
        ids = batch.ids[row][batch.mask[row]][None]
        with torch.no_grad():
            if family == "siglip":
                expected = pooled(net.get_text_features(input_ids=batch.ids[row : row + 1]))
            elif family == "clip":
                expected = pooled(net.get_text_features(input_ids=ids))
            else:
                expected = net(input_ids=ids).logits[..., : model.vocabulary_size]
        mine = got[row : row + 1]
        if model.kind is ModelKind.CAUSAL:
            mine = mine[:, : ids.shape[1]]
        torch.testing.assert_close(mine, expected, atol=2e-5, rtol=1e-5)


@every_family
def test_padding_changes_nothing(loaded: Load, family: str) -> None:
    model = loaded(family)
    together = result(model, framed(model))
    for row, text in enumerate(TEXTS):
        batch = framed(model, [text])
        alone = result(model, batch)
        if model.kind is ModelKind.CAUSAL:
            torch.testing.assert_close(
                together[row, : alone.shape[1]], alone[0], atol=2e-5, rtol=1e-5
            )
        else:
            torch.testing.assert_close(together[row], alone[0], atol=2e-5, rtol=1e-5)


@every_family
def test_gradient_reaches_tokens_and_not_padding(loaded: Load, family: str) -> None:
    model = loaded(family)
    batch = framed(model)
    embeds = model.embed(batch.ids).requires_grad_()
    value = result(model, batch, embeds)
    if model.kind is ModelKind.CAUSAL:
        value = value[batch.mask]
    (grad,) = torch.autograd.grad(value.square().sum(), embeds)
    size = grad.norm(dim=-1)
    assert (size[batch.content] > 0).all()
    assert (size[~batch.mask] == 0).all()


@every_family
def test_what_stands_at_padding_does_not_matter(loaded: Load, family: str) -> None:
    model = loaded(family)
    batch = framed(model)
    embeds = model.embed(batch.ids)
    other = torch.where(batch.mask[..., None], embeds, torch.full_like(embeds, 3.0))
    first, second = result(model, batch, embeds), result(model, batch, other)
    if model.kind is ModelKind.CAUSAL:
        first, second = first[batch.mask], second[batch.mask]
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


@every_family
def test_table_is_what_embed_gives(loaded: Load, saved: Callable[[str], Path], family: str) -> None:
    model = loaded(family)
    table = model.table()
    assert table.shape == (model.vocabulary_size, model.width)
    assert model.vocabulary_size == len(model.tokenizer)
    rows = len(factory.tokenizer_of(family)) + factory.FAMILIES[family].spare
    assert model.unused_rows == rows - len(model.tokenizer)
    ids = torch.arange(model.vocabulary_size)
    torch.testing.assert_close(model.embed(ids[None])[0], table, atol=0, rtol=0)
    assert not table.requires_grad
    alone = load_embeddings(str(saved(family)))
    assert torch.equal(alone.table, table)
    assert alone.identity == model.identity()
    assert alone.unused_rows == model.unused_rows


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_gemma_is_scaled_once(loaded: Load, family: str) -> None:
    """Whether module or model scales, feeding the table's rows equals feeding the ids."""
    model = loaded(family)
    ids = torch.tensor([[1, 300, 301, 302]])
    with torch.no_grad():
        expected = model.module(input_ids=ids).logits
        got = model.module(inputs_embeds=model.table()[ids]).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@every_family
def test_model_is_frozen_and_evaluating(loaded: Load, family: str) -> None:
    model = loaded(family)
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())


@every_family
def test_positions_are_enforced_at_the_true_limit(loaded: Load, family: str) -> None:
    model = loaded(family)
    if family in ("falcon-alibi", "xlnet"):
        assert model.positions is None
        return
    assert model.positions == (24 if family in factory.TOWERS else 48)
    around = len(model.frame.head) + len(model.frame.tail)
    token = model.words.encode_text("dog")[0]
    full = model.batch([[token] * (model.positions - around)])
    assert torch.isfinite(result(model, full)).all()
    with pytest.raises(ModelError, match=f"has {model.positions + 1} tokens .* expected at most"):
        model.batch([[token] * (model.positions - around + 1)])


@every_causal
def test_frames_of_causal_models(loaded: Load, family: str) -> None:
    model = loaded(family)
    tokenizer = model.tokenizer
    expected = {"opt": (tokenizer.eos_token_id,)} | dict.fromkeys(
        ("llama", "mistral", "gemma", "gemma2", "gemma3"), (tokenizer.bos_token_id,)
    )
    assert model.frame.head == expected.get(family, ())
    assert model.frame.tail == ()


@every_causal
def test_logits_from_a_position(loaded: Load, family: str) -> None:
    model = loaded(family)
    batch = framed(model)
    embeds = model.embed(batch.ids)
    full = model.forward(embeds, batch)
    part = model.forward(embeds, batch, logits_from=batch.start - 1)
    assert full.start == 0
    assert part.start == batch.start - 1
    assert full.logits is not None
    assert part.logits is not None
    torch.testing.assert_close(part.logits, full.logits[:, part.start :], atol=1e-5, rtol=1e-5)


@every_classifier
def test_classifier_logits_and_labels(loaded: Load, family: str) -> None:
    model = loaded(family)
    assert isinstance(model, ClassifierModel)
    assert model.labels == ("negative", "neutral", "positive")
    assert result(model, framed(model)).shape == (3, 3)
    assert (model.label_id("Positive"), model.label_id(1)) == (2, 1)
    with pytest.raises(ModelError) as error:
        model.label_id("joy")
    assert str(error.value).endswith(
        "no label 'joy'; expected one of 'negative', 'neutral', 'positive'"
    )
    with pytest.raises(ModelError, match="no label 3"):
        model.label_id(3)


@pytest.mark.parametrize("family", [*factory.CLASSIFIERS, "gpt2", "llama"])
def test_any_of_them_as_encoder_is_the_mean_of_the_last_states(loaded: Load, family: str) -> None:
    model = loaded(family, "encoder")
    batch = framed(model)
    with torch.no_grad():
        for row, features in enumerate(result(model, batch)):
            ids = batch.ids[row][batch.mask[row]][None]
            states = factory.build_model(family).base_model(input_ids=ids).last_hidden_state
            torch.testing.assert_close(features, states[0].mean(dim=0), atol=2e-5, rtol=1e-5)
    unit = model.forward(model.embed(batch.ids), batch, normalize=True).features
    assert unit is not None
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))
    assert model.identity() == loaded(family).identity()


def test_bos_can_be_asked_for_and_left_out(saved: Callable[[str], Path]) -> None:
    from fuse_index.models import load_model

    gpt2 = load_model(str(saved("gpt2")), device="cpu", bos=True)
    assert gpt2.frame.head == (gpt2.tokenizer.bos_token_id,)
    llama = load_model(str(saved("llama")), device="cpu", bos=False)
    assert llama.frame.head == ()


def test_wrong_shapes_and_options(loaded: Load) -> None:
    model, encoder = loaded("gpt2"), loaded("bert", "encoder")
    batch = framed(model)
    with pytest.raises(ShapeError, match=r"embeds of shape .* expected .*the model's width"):
        model.forward(model.embed(batch.ids)[..., :-1], batch)
    with pytest.raises(OptionError, match="logits_from=99"):
        model.forward(model.embed(batch.ids), batch, logits_from=99)
    with pytest.raises(OptionError, match="normalize"):
        model.forward(model.embed(batch.ids), batch, normalize=True)
    assert isinstance(model, CausalModel)
    prefix = model.prefill([1, 2])
    with pytest.raises(ModelError, match="does not begin with"):
        model.forward(model.embed(batch.ids), batch, prefix=prefix)
    row = model.batch([[5, 6]])
    with pytest.raises(ModelError, match="at least one token after the prefix"):
        model.forward(model.embed(row.ids), row, prefix=model.prefill(row.shared))
    with pytest.raises(OptionError, match="prefix of 0 tokens"):
        model.prefill([])
    other = framed(encoder)
    with pytest.raises(ModelError, match="kind encoder"):
        encoder.forward(encoder.embed(other.ids), other, prefix=prefix)
    with pytest.raises(OptionError, match="logits_from"):
        encoder.forward(encoder.embed(other.ids), other, logits_from=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(saved: Callable[[str], Path], dtype: torch.dtype) -> None:
    from fuse_index.models import load_model

    narrow, wide = (
        load_model(str(saved("gemma3")), device="cpu", dtype=d) for d in (dtype, torch.float32)
    )
    assert narrow.dtype == narrow.table().dtype == dtype
    batch = framed(narrow)
    torch.testing.assert_close(
        result(narrow, batch).float(), result(wide, batch).float(), atol=0.6, rtol=0.1
    )
    assert narrow.identity().embedding_hash == ""
    assert not narrow.identity().differences(wide.identity())


def test_classifier_on_a_causal_model_reads_each_last_token(tmp_path: Path) -> None:
    """Given embeddings, transformers itself reads the last position, padding or not."""
    import transformers

    from fuse_index.models import load_model

    tokenizer = factory.tokenizer_of("llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer), pad_token_id=3, num_labels=2, **factory.GROUPED
        )
        net = transformers.LlamaForSequenceClassification(config).eval()
    net.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    assert model.kind is ModelKind.CLASSIFIER
    batch = framed(model)
    with torch.no_grad():
        expected = net(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    torch.testing.assert_close(result(model, batch), expected, atol=2e-5, rtol=1e-5)


def test_a_bidirectional_model_is_no_causal_one(tmp_path: Path) -> None:
    import transformers

    from fuse_index.models import load_model

    tokenizer = factory.tokenizer_of("bert")
    config = transformers.BertConfig(vocab_size=len(tokenizer), **factory.SIZES)
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a later token changes the logits of earlier ones"):
        load_model(str(tmp_path), kind="causal", device="cpu")


def test_a_state_space_model_runs_but_has_no_cached_prefix(tmp_path: Path) -> None:
    import transformers

    from fuse_index.models import load_model

    tokenizer = factory.tokenizer_of("qwen2")
    config = transformers.MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, state_size=4, num_hidden_layers=2
    )
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    assert isinstance(model, CausalModel)
    with pytest.raises(ModelError, match="does not hold keys and values"):
        model.prefill([5, 6, 7])


def test_parts_are_read_only(loaded: Load) -> None:
    model = loaded("gpt2")
    assert isinstance(model.parts, ModelParts)
    assert repr(model).startswith("CausalModel(")
    with pytest.raises(AttributeError):
        model.parts.name = "other"  # type: ignore[misc]


@pytest.mark.gpu
@every_family
def test_gpu_equals_cpu(loaded: Load, saved: Callable[[str], Path], family: str) -> None:
    from fuse_index.models import load_model

    model = load_model(str(saved(family)), device="cuda", dtype=torch.float32)
    assert model.device.type == "cuda"
    batch = framed(model)
    got, expected = result(model, batch), result(loaded(family), framed(loaded(family)))
    if model.kind is ModelKind.CAUSAL:
        got, expected = got[batch.mask], expected[batch.mask.cpu()]
    torch.testing.assert_close(got.cpu(), expected, atol=1e-3, rtol=1e-3)
    assert model.identity() == loaded(family).identity()
