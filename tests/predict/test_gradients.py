"""The gradient of the whole problem against what each model's own gradient says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.adapter import Adapter
from fuse_index.adapter.maps import make_map
from fuse_index.errors import LossError, OptionError
from fuse_index.models import load_model
from fuse_index.objectives import (
    CustomObjective,
    CustomTextObjective,
    Fluency,
    ImageSimilarity,
    TargetContinuation,
)
from fuse_index.optimize import GCG, Budget, Problem, Spent, Term, optimize
from fuse_index.predict.gradients import Gradients
from fuse_index.predict.loss_gradients import embedding_gradient, label_gradient, one_hot_gradient
from fuse_index.words.ragged import Ragged

TEXTS = ("the picture contains a small circle", "a lovely red triangle above the horrible square")


def rows_of(problem: Problem, texts=TEXTS) -> Ragged:
    return Ragged.from_lists([problem.encode(text) for text in texts])


def pulled_by_hand(problem: Problem, term: int, ids: tuple[int, ...]) -> torch.Tensor:
    """The definition, word by word: out[s] = sum_t g[t] @ G[(t - s) mod k]^T."""
    target, loss = problem.targets[term], problem.losses[term]
    read = target.read(Ragged.from_lists([ids]))
    _, gradient = embedding_gradient(loss, read.contents)
    words, adapter = read.words, target.adapter
    groups = adapter.group_of(words.source_counts, words.target_counts)
    out = torch.zeros(len(ids), adapter.source_width)
    for word, group in enumerate(groups):
        faces = adapter[adapter.group_names[group]]
        first, last = words.source_word_offsets[word : word + 2]
        start, stop = words.target_word_offsets[word : word + 2]
        for s in range(last - first):
            for t in range(stop - start):
                out[first + s] += gradient[start + t] @ faces[(t - s) % len(faces)].T
    return out


def test_adapted_gradient_is_the_pull_back_of_every_word(problem):
    found = Gradients(problem, Spent()).embeddings(rows_of(problem), np.array([0.0, 1.0]))
    for i, text in enumerate(TEXTS):
        ids = problem.encode(text)
        expected = pulled_by_hand(problem, 1, ids)
        torch.testing.assert_close(found[i, : len(ids)], expected, rtol=1e-4, atol=1e-7)
        assert not found[i, len(ids) :].any()


def test_a_gradient_through_a_curved_map_is_taken_at_the_words(problem, monkeypatch):
    """A local map for words of one token in both models, the t-products for the others."""
    target = problem.targets[1]
    faces = {name: target.adapter[name] for name in target.adapter.group_names}
    d_src, d_tgt = faces.pop("1x1").shape[1:]
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "intercept": torch.zeros(1, d_tgt),
        "centre": torch.zeros(d_src),
        "landmarks": torch.nn.functional.normalize(
            torch.randn(6, d_src, generator=generator), dim=1
        ),
        "coefficients": torch.randn(6, d_tgt, generator=generator),
        "sharpness": torch.tensor([2.0]),
        "shared": torch.randn(d_src, d_tgt, generator=generator),
    }
    adapter = Adapter(faces, maps={"1x1": make_map("local", tensors)})
    monkeypatch.setattr(target, "adapter", adapter)
    found = Gradients(problem, Spent()).embeddings(rows_of(problem), np.array([0.0, 1.0]))
    for i, text in enumerate(TEXTS):
        ids = problem.encode(text)
        read = target.read(Ragged.from_lists([ids]))
        _, gradient = embedding_gradient(problem.losses[1], read.contents)
        source = problem.source.table()[list(ids)].detach().requires_grad_()
        mapped = adapter.apply(source, target.layout(read))
        (expected,) = torch.autograd.grad(mapped, source, gradient)
        torch.testing.assert_close(found[i, : len(ids)], expected, rtol=1e-3, atol=1e-6)


def test_token_scores_are_adapted_gradients_times_embeddings(problem):
    gradients = Gradients(problem, Spent())
    weights = np.array([0.0, 3.0])
    scores = gradients.tokens(rows_of(problem), weights)
    embeddings = gradients.embeddings(rows_of(problem), weights)
    torch.testing.assert_close(scores, embeddings @ problem.source.table().T, atol=1e-6, rtol=1e-4)


def test_terms_add_up_with_their_weights(problem):
    gradients = Gradients(problem, Spent())
    rows = rows_of(problem)
    alone = [gradients.tokens(rows, np.eye(2)[i]) for i in range(2)]
    both = gradients.tokens(rows, np.array([0.3, -2.0]))
    torch.testing.assert_close(both, 0.3 * alone[0] - 2.0 * alone[1], rtol=1e-4, atol=1e-5)


def test_fluency_has_the_true_one_hot_gradient(lm_problem):
    rows = rows_of(lm_problem)
    scores = Gradients(lm_problem, Spent()).tokens(rows, np.ones(1))
    _, expected = one_hot_gradient(lm_problem.losses[0], rows)
    torch.testing.assert_close(scores, expected)
    labels_alone = Gradients(lm_problem, Spent()).embeddings(rows, np.ones(1))
    assert labels_alone.shape == (2, rows.lengths.max(), lm_problem.source.width)


def test_a_row_does_not_feel_its_neighbours(problem):
    gradients = Gradients(problem, Spent())
    weights = np.array([1.0, 1.0])
    together = gradients.tokens(rows_of(problem), weights)
    for i, text in enumerate(TEXTS):
        alone = gradients.tokens(rows_of(problem, [text]), weights)[0]
        torch.testing.assert_close(together[i, : len(alone)], alone, rtol=1e-3, atol=1e-5)


def test_a_model_with_the_same_tokens_needs_no_adapter(lm):
    twin = load_model(lm.name, device="cpu")
    goal = TargetContinuation(target=" circle on the left")
    own = Problem(lm, [Term(goal, lm)])
    other = Problem(lm, [Term(goal, twin)])
    assert other.targets[0].same_tokens
    assert not other.targets[0].is_source
    rows = rows_of(own)
    torch.testing.assert_close(
        Gradients(other, Spent()).tokens(rows, np.ones(1)),
        Gradients(own, Spent()).tokens(rows, np.ones(1)),
        rtol=1e-4,
        atol=1e-6,
    )
    # through the tokens' scores back to embeddings: the projection that fits them best
    torch.testing.assert_close(
        Gradients(other, Spent()).embeddings(rows, np.ones(1)),
        Gradients(own, Spent()).embeddings(rows, np.ones(1)),
        rtol=1e-2,
        atol=1e-4,
    )


def test_norms_are_those_of_each_term_alone(problem):
    gradients = Gradients(problem, Spent())
    rows = rows_of(problem, TEXTS[:1])
    expected = [float(gradients.tokens(rows, np.eye(2)[i]).norm()) for i in range(2)]
    assert gradients.norms(rows) == pytest.approx(expected, rel=1e-5)


def test_gradients_are_counted_a_prompt(problem):
    spent = Spent()
    Gradients(problem, spent).tokens(rows_of(problem), np.ones(2))
    assert (spent.gradients, spent.scored, spent.forward_passes) == (2, 0, 6)


def test_missing_adapter_is_named_with_its_remedy(lm, clip, image):
    problem = Problem(lm, [Term(ImageSimilarity(images=image), clip)])
    with pytest.raises(OptionError, match=r"no adapter from .*; build it: fuse-index build "):
        optimize(problem, TEXTS[0], method=GCG(predictor="adapter", search_width=4))


def test_no_term_with_a_gradient_is_refused(lm):
    objective = CustomTextObjective(function=lambda texts: [float(len(t)) for t in texts])
    problem = Problem(lm, [Term(objective, lm)])
    with pytest.raises(OptionError, match=r"no objective that has one.*use the method 'random'"):
        optimize(problem, TEXTS[0], method=GCG(), budget=Budget(steps=1))


def test_gradient_that_is_not_finite_names_objective_and_prompt(lm):
    def root(model, embeds, batch):
        return (embeds * 0).sum(dim=(1, 2)).sqrt()  # 0, with the derivative 0 / 0

    problem = Problem(lm, [Term(CustomObjective(function=root), lm)])
    with pytest.raises(LossError, match=r"gradient at the prompt '.*picture.*' holds NaN"):
        Gradients(problem, Spent()).tokens(rows_of(problem), np.ones(1))


def test_weights_of_zero_take_no_part(lm, problem):
    broken = CustomObjective(function=lambda model, embeds, batch: embeds.sum(dim=(1, 2)) / 0)
    both = Problem(lm, [Term(Fluency(), lm), Term(broken, lm)])
    scores = Gradients(both, Spent()).tokens(rows_of(both), np.array([1.0, 0.0]))
    assert torch.isfinite(scores).all()


def test_label_gradients_are_those_of_replaced_labels(lm_problem):
    """The loss is linear in the labels: the gradient says exactly what another one changes."""
    lm, loss = lm_problem.source, lm_problem.losses[0]
    rows = rows_of(lm_problem, [TEXTS[0]])
    found = label_gradient(loss, rows)[0]
    ids = torch.tensor([[*lm.frame.head, *rows.values.tolist()]])
    before = len(lm.frame.head)
    log_probs = lm.module(inputs_embeds=lm.table()[ids]).logits[0].double().log_softmax(dim=-1)
    for position in (0, 3, 5):
        labels = ids[0].clone()
        for token in (20, 111, 400):
            labels[before + position] = token
            likely = log_probs[before - 1 : -1].gather(1, labels[before:, None])
            own = log_probs[before - 1 : -1].gather(1, ids[0, before:, None])
            changed = float((own - likely).sum()) / rows.lengths[0]
            ours = float(found[position, token] - found[position, ids[0, before + position]])
            assert ours == pytest.approx(changed, abs=1e-4)


def test_parts_of_a_backward_pass_give_the_same(problem):
    rows = rows_of(problem, [*TEXTS, "a small star", "a circle"])
    found = [
        Gradients(problem, Spent(), batch_size=size).tokens(rows, np.ones(2)) for size in (None, 2)
    ]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_memory_that_runs_out_halves_the_backward_pass(problem, monkeypatch):
    gradients = Gradients(problem, Spent())
    rows = rows_of(problem, [*TEXTS] * 4)
    expected = gradients.tokens(rows, np.ones(2))
    plain = gradients._tokens

    def tight(part, weights):
        if len(part) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(part, weights)

    monkeypatch.setattr(gradients, "_tokens", tight)
    torch.testing.assert_close(gradients.tokens(rows, np.ones(2)), expected, rtol=1e-4, atol=1e-5)
    assert gradients.rows.size <= 3
