"""Likelihood, energy and divergence, against their formulas and finite differences."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fuse_index.errors import ModelError, OptionError, ShapeError
from fuse_index.models import Model, load_model
from fuse_index.objectives import (
    EnergyLogProbability,
    Fluency,
    LabelSpace,
    Objective,
    TokenDivergence,
    one_hot_content,
)
from fuse_index.objectives.labels import _SPACES, label_space
from fuse_index.objectives.language import length_penalty
from fuse_index.objectives.shared import SharedStart
from tests.models import factory

Load = Callable[..., Model]
TEXTS = [" a brown dog", " two children play with a boat", " grass", " a brown fox jumps"]
every_causal = pytest.mark.parametrize("family", factory.CAUSAL)


@pytest.fixture(scope="module")
def gpt2(saved: Callable[[str], Path]) -> Model:
    """In float64, for finite differences."""
    return load_model(str(saved("gpt2")), device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def qwen2(saved: Callable[[str], Path]) -> Model:
    """A model whose output layer is not its table."""
    return load_model(str(saved("qwen2")), device="cpu", dtype=torch.float64)


def rows_of(model: Model, texts: list[str] = TEXTS) -> list[list[int]]:
    return [model.words.encode_text(text) for text in texts]


def log_probs(model: Model, ids: list[int]) -> torch.Tensor:
    """(n, V) log-probabilities after each of the ids, by the model's own forward."""
    net: Any = model.module
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([ids])).logits[0, :, : model.vocabulary_size]
    return logits.double().log_softmax(-1)


def nll_by_hand(model: Model, row: list[int], prefix: list[int], suffix: list[int]) -> list[float]:
    """Negative log-likelihoods of the row's and the suffix's tokens that have a context."""
    before = [*model.frame.head, *prefix]
    ids = [*before, *row, *suffix]
    table = log_probs(model, ids)
    return [-float(table[i - 1, ids[i]]) for i in range(max(len(before), 1), len(ids))]


@pytest.mark.smoke
@pytest.mark.parametrize("prefix", ["", "the old woman"])
@pytest.mark.parametrize("suffix", ["", " said."])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_fluency_is_the_mean_negative_log_likelihood(
    loaded: Load, family: str, prefix: str, suffix: str
) -> None:
    model = loaded(family)
    rows = rows_of(model)
    before = model.words.encode_text(prefix) if prefix else []
    after = model.words.encode_text(suffix) if suffix else []
    mean = Fluency(prefix=prefix, suffix=suffix).prepare(model).score(rows)
    total = Fluency(prefix=prefix, suffix=suffix, reduction="sum").prepare(model).score(rows)
    both = Fluency(prefix=prefix, suffix=suffix, include_suffix=True).prepare(model).score(rows)
    for i, row in enumerate(rows):
        costs = nll_by_hand(model, row, before, after)
        own = costs[: len(costs) - len(after)]
        expected = sum(own) / max(len(own), 1)
        assert float(mean[i]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert float(total[i]) == pytest.approx(sum(own), rel=1e-4, abs=1e-5)
        assert float(both[i]) == pytest.approx(sum(costs) / max(len(costs), 1), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("suffix", ["", " said."])
def test_fluency_with_the_end_counts_the_token_that_ends_a_text(
    saved: Callable[[str], Path], suffix: str
) -> None:
    model = load_model(str(saved("gpt2")), device="cpu")
    model.tokenizer.eos_token = model.words.token(5)
    assert model.tokenizer.eos_token_id == 5
    rows = rows_of(model)
    after = model.words.encode_text(suffix) if suffix else []
    own = Fluency(suffix=suffix, include_end=True, reduction="sum").prepare(model).score(rows)
    options = {"include_suffix": True, "include_end": True, "reduction": "sum"}
    both = Fluency(suffix=suffix, **options).prepare(model).score(rows)
    for i, row in enumerate(rows):
        costs = nll_by_hand(model, row, [], [*after, 5])
        assert float(both[i]) == pytest.approx(sum(costs), rel=1e-4, abs=1e-5)
        wanted = sum(costs[: len(costs) - len(after) - 1]) + costs[-1]
        assert float(own[i]) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_the_end_is_refused_where_a_tokenizer_has_none(
    saved: Callable[[str], Path],
) -> None:
    model = load_model(str(saved("gpt2")), device="cpu")
    model.tokenizer.eos_token = None
    with pytest.raises(ModelError, match=r"no token that ends a text; .*leave include_end out"):
        Fluency(include_end=True).prepare(model)


def relaxed_nll(model: Model, weights: torch.Tensor, prefix: list[int]) -> torch.Tensor:
    """The relaxed loss of one row, written out: tokens are weights over the vocabulary."""
    table = model.table()
    before = table[torch.tensor(prefix)]
    embeds = torch.cat([before, weights @ table])[None]
    net: Any = model.module
    logits = net(inputs_embeds=embeds).logits[0, :, : model.vocabulary_size]
    scores = logits.log_softmax(-1)[len(prefix) - 1 : -1]
    return -(weights * scores).sum() / len(weights)


def test_one_hot_gradient_is_the_gradient_of_the_relaxed_loss(gpt2: Model) -> None:
    """Through the context and through the label, for rows of different lengths at once."""
    loss = Fluency(prefix="the old woman", suffix=" said.").prepare(gpt2)
    rows = rows_of(gpt2)
    batch = loss.batch(rows)
    labels, embeds = one_hot_content(gpt2, batch)
    torch.testing.assert_close(embeds, gpt2.embed(batch.ids), atol=0, rtol=0)
    (grad,) = torch.autograd.grad(loss(embeds, batch, labels).sum(), labels)
    prefix = gpt2.words.encode_text("the old woman")
    for i, row in enumerate(rows):
        weights = torch.nn.functional.one_hot(torch.tensor(row), gpt2.vocabulary_size).double()
        weights.requires_grad_()
        (expected,) = torch.autograd.grad(relaxed_nll(gpt2, weights, prefix), weights)
        torch.testing.assert_close(grad[i, : len(row)], expected, atol=1e-6, rtol=1e-5)
        assert not grad[i, len(row) :].any()


def test_one_hot_gradient_by_finite_differences(gpt2: Model) -> None:
    loss = Fluency(prefix="the old woman").prepare(gpt2)
    row = rows_of(gpt2)[1]
    batch = loss.batch([row])
    labels, embeds = one_hot_content(gpt2, batch)
    (grad,) = torch.autograd.grad(loss(embeds, batch, labels).sum(), labels)
    prefix = gpt2.words.encode_text("the old woman")
    weights = labels.detach()[0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        step = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
        step *= 1e-6 / step.norm()
        with torch.no_grad():
            change = relaxed_nll(gpt2, weights + step, prefix)
            change = change - relaxed_nll(gpt2, weights - step, prefix)
        assert float((grad[0] * step).sum() * 2) == pytest.approx(float(change), rel=1e-4)


@pytest.mark.parametrize("objective", [Fluency(), EnergyLogProbability(), TokenDivergence()])
def test_the_last_token_has_a_gradient(gpt2: Model, objective: Objective) -> None:
    """It is nobody's context, so all of its gradient is the label's: others have none here."""
    loss = objective.prepare(gpt2)
    batch = loss.batch(rows_of(gpt2))
    embeds = gpt2.embed(batch.ids).requires_grad_()
    (grad,) = torch.autograd.grad(loss(embeds, batch).sum(), embeds)
    rows = torch.arange(len(batch))
    several = batch.lengths > 1  # a first token without context has no likelihood
    assert (grad[rows, batch.last].norm(dim=-1) > 0)[several].all()
    assert not grad[~batch.mask].any()


@pytest.mark.parametrize("which", ["gpt2", "qwen2"])
def test_label_gradient_in_embedding_space(which: str, request: pytest.FixtureRequest) -> None:
    """It is the pseudo-inverse of the table applied to the scores of the labels."""
    model: Model = request.getfixturevalue(which)
    loss = Fluency(prefix="the").prepare(model)
    row = rows_of(model)[1]
    batch = loss.batch([row])
    embeds = model.embed(batch.ids).requires_grad_()
    (grad,) = torch.autograd.grad(loss(embeds, batch).sum(), embeds)
    scores = log_probs(model, batch.ids[0].tolist())[-2]
    expected = -(torch.linalg.pinv(model.table().double()) @ scores) / len(row)
    torch.testing.assert_close(grad[0, -1].double(), expected, atol=1e-5, rtol=1e-4)


def test_label_space_inverts_the_table(qwen2: Model) -> None:
    space = LabelSpace(qwen2)
    pinv = torch.linalg.pinv(qwen2.table())
    scores = torch.linspace(-1, 1, qwen2.vocabulary_size, dtype=torch.float64)
    torch.testing.assert_close(space.gradient(scores).double(), pinv @ scores, atol=1e-5, rtol=1e-4)
    embeds = qwen2.table()[[5, 300]]
    torch.testing.assert_close(space.weights(embeds), embeds @ pinv, atol=1e-5, rtol=1e-4)
    again = space.weights(embeds) @ qwen2.table()
    torch.testing.assert_close(again, embeds, atol=1e-5, rtol=1e-4)


def test_label_space_is_made_once_and_dies_with_its_model(saved: Callable[[str], Path]) -> None:
    model = load_model(str(saved("gpt2")), device="cpu")
    assert label_space(model) is label_space(model)
    count = len(_SPACES)
    del model
    gc.collect()
    assert len(_SPACES) < count


def test_energy_is_the_sum_and_its_label_gradient_the_hidden_state(gpt2: Model) -> None:
    rows = rows_of(gpt2)
    energy = EnergyLogProbability(prefix="the").prepare(gpt2)
    total = Fluency(prefix="the", reduction="sum").prepare(gpt2)
    torch.testing.assert_close(energy.score(rows), total.score(rows), atol=1e-4, rtol=1e-5)
    batch = energy.batch([rows[1]])
    embeds = gpt2.embed(batch.ids).requires_grad_()
    (grad,) = torch.autograd.grad(energy(embeds, batch).sum(), embeds)
    net: Any = gpt2.module
    with torch.no_grad():
        states = net.transformer(input_ids=batch.ids).last_hidden_state[0]
    torch.testing.assert_close(grad[0, -1], -states[-2], atol=1e-5, rtol=1e-4)
    mean = EnergyLogProbability(prefix="the", reduction="mean").prepare(gpt2).score([rows[1]])
    assert float(mean) == pytest.approx(float(energy.score([rows[1]])) / len(rows[1]), rel=1e-5)


def test_energy_with_one_hot_labels(gpt2: Model) -> None:
    """The label's part of the gradient is minus the logits."""
    loss = EnergyLogProbability(prefix="the").prepare(gpt2)
    batch = loss.batch([rows_of(gpt2)[1]])
    labels, embeds = one_hot_content(gpt2, batch)
    (grad,) = torch.autograd.grad(loss(embeds, batch, labels).sum(), labels)
    net: Any = gpt2.module
    with torch.no_grad():
        logits = net(input_ids=batch.ids).logits[0, -2]
    torch.testing.assert_close(grad[0, -1], -logits, atol=1e-5, rtol=1e-5)


def test_token_divergence_by_its_formula(gpt2: Model) -> None:
    temperature = 0.3
    loss = TokenDivergence(prefix="the", temperature=temperature).prepare(gpt2)
    rows = rows_of(gpt2)
    got = loss.score(rows)
    pinv = torch.linalg.pinv(gpt2.table())
    prefix = gpt2.words.encode_text("the")
    for i, row in enumerate(rows):
        ids = [*prefix, *row]
        model_log = log_probs(gpt2, ids)[len(prefix) - 1 : -1]
        soft = (gpt2.table()[torch.tensor(row)] @ pinv / temperature).log_softmax(-1)
        expected = (model_log.exp() * (model_log - soft)).sum(-1).mean()
        assert float(got[i]) == pytest.approx(float(expected), rel=1e-4)


@every_causal
@pytest.mark.parametrize("objective", [Fluency, EnergyLogProbability, TokenDivergence])
@pytest.mark.parametrize("prefix", ["", "two"])
def test_cached_start_changes_nothing(
    loaded: Load, family: str, objective: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that share content, scored with the cache, equal each alone without it."""
    model = loaded(family)
    stem = model.words.encode_text(" a brown dog runs")
    rows = [
        [*stem, *model.words.encode_text(" over the grass")],
        [*stem, *model.words.encode_text(" and")],
        stem,
    ]
    loss = objective(prefix=prefix, suffix="!").prepare(model)
    together = loss.score(rows)
    batch = loss.batch(rows)
    embeds = model.embed(batch.ids).requires_grad_()
    graded = loss(embeds, batch)
    (grad,) = torch.autograd.grad(graded.sum(), embeds)
    monkeypatch.setattr(SharedStart, "of", lambda *args, **options: None)
    plain = objective(prefix=prefix, suffix="!").prepare(model)
    alone = torch.cat([plain.score([row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=2e-5)
    torch.testing.assert_close(graded, alone, atol=2e-4, rtol=2e-5)
    embeds = model.embed(batch.ids).requires_grad_()
    (expected,) = torch.autograd.grad(plain(embeds, batch).sum(), embeds)
    gap = (grad - expected)[batch.content].abs().max()
    assert gap < 1e-3 * expected[batch.content].abs().max()


def test_shared_content_is_computed_once(loaded: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("gpt2")
    seen: list[tuple[int, ...]] = []
    original = model.module.forward

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(tuple(options["inputs_embeds"].shape[:2]))
        return original(*args, **options)

    stem = model.words.encode_text(" a brown dog runs over the")
    rows = [[*stem, token] for token in range(50, 58)]
    loss = Fluency(prefix="two").prepare(model)
    monkeypatch.setattr(model.module, "forward", spy)
    loss.score(rows)
    assert (8, 1) in seen, "of every candidate the last shared token is run, not its own"
    assert max(length for rows_, length in seen if rows_ == 8) == 1
    seen.clear()
    loss.score(rows)
    assert seen == [(8, 1)], "the shared start is remembered"


@pytest.mark.parametrize(("family", "expected"), [("gpt2", 2), ("gemma3", 4)])
def test_shorter_content_is_cut_from_longer(
    loaded: Load, family: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches in the order of what they share, the longest first, prefill once.

    A sliding window has dropped tokens that a shorter prefix needs, so there each one is new.
    """
    model = loaded(family)
    stem = model.words.encode_text(" a brown dog runs over the")
    ends = [model.words.encode_text(text) for text in (" grass", " river and", " boat")]
    prefills: list[int] = []
    original = type(model).prefill

    def spy(self: Any, ids: Any, **options: Any) -> Any:
        prefills.append(len(ids))
        return original(self, ids, **options)

    monkeypatch.setattr(type(model), "prefill", spy)
    loss = Fluency(prefix="look at").prepare(model)
    found = []
    for keep in (len(stem), len(stem) - 1, len(stem) - 3):
        found.append(loss.score([[*stem[:keep], *end] for end in ends]))
    assert len(prefills) == expected  # the prefix, and the longest content after it
    loss.forget()
    loss.score([[*stem, *end] for end in ends])
    assert len(prefills) == expected + 1
    monkeypatch.setattr(SharedStart, "of", lambda *args, **options: None)
    for keep, values in zip((len(stem), len(stem) - 1, len(stem) - 3), found, strict=True):
        plain = loss.score([[*stem[:keep], *end] for end in ends])
        torch.testing.assert_close(values, plain, atol=2e-4, rtol=2e-5)


def test_duplicate_candidates_are_scored_alike(loaded: Load) -> None:
    model = loaded("gpt2")
    row = rows_of(model)[1]
    loss = Fluency(prefix="two").prepare(model)
    torch.testing.assert_close(
        loss.score([row, row]), loss.score([row]).expand(2), atol=1e-4, rtol=1e-5
    )


def test_a_sum_over_the_length_penalty_stands_between_sum_and_mean(gpt2: Model) -> None:
    rows = rows_of(gpt2)
    total = Fluency(prefix="the", reduction="sum").prepare(gpt2).score(rows)
    scaled = Fluency(prefix="the", reduction="length").prepare(gpt2).score(rows)
    counts = torch.tensor([len(row) for row in rows])
    torch.testing.assert_close(scaled, total / ((5 + counts) / 6) ** 0.65)
    assert float(length_penalty(torch.tensor(1))) == 1.0


def test_bad_options_and_labels(gpt2: Model) -> None:
    expected = "fluency: reduction 'median'; expected one of mean, sum, length"
    with pytest.raises(OptionError, match=expected):
        Fluency(reduction="median")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="kl: temperature=0; expected more than 0"):
        TokenDivergence(temperature=0)
    with pytest.raises(OptionError, match="fluency: weight=nan; expected a finite number"):
        Fluency(weight=float("nan"))
    loss = Fluency().prepare(gpt2)
    batch = loss.batch(rows_of(gpt2))
    labels, embeds = one_hot_content(gpt2, batch)
    with pytest.raises(ShapeError, match=r"labels of shape .* the contents of the batch"):
        loss(embeds, batch, labels[:, :-1])


def test_real_language_model_prefers_english(gpt2_dir: Path) -> None:
    model = load_model(str(gpt2_dir), device="cpu")
    loss = Fluency(prefix="A photo of").prepare(model)
    rows = rows_of(model, [" two dogs running on the beach", " two running the on beach dogs"])
    good, bad = loss.score(rows).tolist()
    assert good < bad - 0.5


@pytest.mark.parametrize("options", [{}, {"suffix": " said"}, {"include_end": True}])
def test_positions_that_predict_nothing_are_not_run(
    loaded: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    model = loaded("gpt2")
    loss = Fluency(**options).prepare(model)
    batch = loss.batch([[20, 21, 22, 23, 24], [25, 26, 27]])
    ran: list[int] = []
    forward = type(model).forward

    def counting(self: Model, embeds: torch.Tensor, *rest: Any, **named: Any) -> Any:
        ran.append(embeds.shape[1])
        return forward(self, embeds, *rest, **named)

    monkeypatch.setattr(type(model), "forward", counting)
    got = loss.score_batch(batch)
    with torch.enable_grad():  # as it is: gradients need the positions of all tokens
        whole = loss(model.embed(batch.ids), batch)
    tokens = batch.ids.shape[1]
    wanted = tokens if options.get("include_end") else batch.start + batch.longest
    assert ran == [wanted - 1, tokens]
    torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-5)
