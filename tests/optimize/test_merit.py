"""Whole words that are likely and helpful: merits, writing by words, and edits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from fuse_index.optimize.gradient import Differentiator
from fuse_index.optimize.likelihood import Likelihood
from fuse_index.optimize.methods.word_edits import exchanges, omissions
from fuse_index.optimize.word_gradient import Expansion, WordDifferentiator
from fuse_index.optimize.word_merit import WordMerit

from fuse_index.errors import ModelError, OptionError
from fuse_index.objectives import Fluency, ImageSimilarity, TextSimilarity
from fuse_index.optimize import (
    Beam,
    Budget,
    Greedy,
    Problem,
    Route,
    Run,
    RunOptions,
    Spent,
    Stop,
    Term,
    WordEdits,
    WordWriter,
    optimize,
)
from fuse_index.words.ragged import Ragged

BASE = "the picture contains a gorgeous circle on the left"


@pytest.fixture(scope="module")
def problem(lm, clip, clip_adapter, image_path) -> Problem:
    """Fluent, and like the picture."""
    likeness = Term(ImageSimilarity(images=image_path, weight=14.0), clip, clip_adapter)
    return Problem(lm, [Term(Fluency(include_end=True), lm), likeness])


def run_of(problem, method, texts=(BASE,), search=None) -> Run:
    initial = [problem.encode(text) for text in texts]
    return Run(problem, initial, method=method, search=search or Greedy(), options=RunOptions())


def merit_of(problem, route=Route.WORD, weight=2.0) -> WordMerit:
    return WordMerit(run_of(problem, WordEdits()).context, problem.source, route, weight)


def firsts(problem) -> torch.Tensor:
    tokens = problem.lexicon.source
    return torch.tensor([int(tokens[word][0]) for word in range(len(tokens))])


def test_gradients_at_the_mean_word_are_the_same_in_one_call_for_many_prompts(problem):
    gradients = Differentiator(problem, Spent())
    words = WordDifferentiator(gradients, problem.lexicon)
    places = words.places(problem.encode(BASE))
    alone = words.at(places, problem.weights, expansion=Expansion.MEAN_WORD)
    before = gradients.spent.gradients
    rows = Ragged.from_lists([places.ids] * len(places))
    together = words.at_mean_word(rows, np.arange(len(places)), problem.weights)
    assert gradients.spent.gradients - before == len(places)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.sums, other.sums, atol=1e-5, rtol=1e-4)


def standardized(change: torch.Tensor) -> torch.Tensor:
    return (change - change.mean(1, keepdim=True)) / change.std(1, correction=0, keepdim=True)


@pytest.mark.parametrize("route", list(Route))
def test_merit_is_likelihood_less_the_standardized_change_of_the_other_terms(problem, lm, route):
    merit = merit_of(problem, route, 2.0)
    places = merit.places(problem.encode(BASE))
    got = merit.instead(places)
    likely = Likelihood(problem, lm, Spent()).along(places.ids)[places.offsets[:-1]]
    gradients = Differentiator(problem, Spent())
    words = WordDifferentiator(gradients, problem.lexicon)
    taken = words.at(places, np.array([0.0, 14.0]), expansion=Expansion.MEAN_WORD)
    changes = {Route.WORD: words.in_word_space(taken), Route.ADAPTER: words.through_adapter(taken)}
    layered = WordDifferentiator(gradients, problem.lexicon, layers=True)
    taken = layered.at(places, np.array([0.0, 14.0]), expansion=Expansion.MEAN_WORD)
    changes[Route.LAYERS] = layered.in_word_space(taken)
    changes = {route: standardized(own.double().cpu()) for route, own in changes.items()}
    changes[Route.MIXTURE] = standardized(changes[Route.WORD] + changes[Route.ADAPTER])
    change = changes[route]
    expected = likely[:, firsts(problem)].double() - 2 * change
    torch.testing.assert_close(got.double(), expected, atol=2e-3, rtol=1e-3)


def test_without_weight_a_merit_is_the_likelihood_and_costs_no_gradient(problem, lm):
    merit = merit_of(problem, weight=0.0)
    spent = merit.context.gradients.spent
    ids = problem.encode("a red")
    got = merit.behind([ids])[0]
    assert spent.gradients == 0
    likely = Likelihood(problem, lm, Spent()).next_tokens([ids])[0, firsts(problem)]
    torch.testing.assert_close(got, likely)
    between = merit.between(merit.places(ids))
    torch.testing.assert_close(between[-1], likely, atol=1e-4, rtol=1e-4)
    assert between.shape == (3, len(problem.lexicon))


def test_a_prompt_without_room_for_another_word_is_judged_by_likelihood(problem, lm, clip):
    merit = merit_of(problem)
    long = problem.encode("star " * (clip.positions - 3) + "star")
    likely = Likelihood(problem, lm, Spent()).next_tokens([long])[0, firsts(problem)]
    torch.testing.assert_close(merit.behind([long])[0], likely)


def test_a_writer_without_gradient_puts_the_likeliest_words_behind(problem, lm):
    run = run_of(problem, WordWriter(words=2, search_width=5, weight=0.0), ["a red"])
    state = run.search.select()[0]
    proposals = run.method.propose([state])
    assert proposals is not None
    assert proposals.grown
    likely = Likelihood(problem, lm, Spent()).next_tokens([state.ids])[0, firsts(problem)]
    tokens = problem.lexicon.source
    best = [(*state.ids, *tokens[word].tolist()) for word in likely.topk(5).indices.tolist()]
    assert [tuple(row.tolist()) for row in proposals.prompts] == best


def test_a_writer_ends_after_its_words_or_where_it_has_become_worse(problem):
    start = [problem.encode("a red")]
    method = WordWriter(words=3, search_width=16)
    whole = optimize(problem, start, method=method, search=Beam(2), budget=Budget(steps=20))
    assert (whole.stop, whole.spent["steps"]) == (Stop.FINISHED, 3)
    assert len(problem.decode(whole.ids).split()) <= 5
    method = WordWriter(words=20, search_width=16, margin=0.0)
    cut = optimize(problem, start, method=method, search=Beam(2), budget=Budget(steps=20))
    assert cut.stop is Stop.FINISHED
    totals = [point.total for point in cut.trajectory]
    assert totals[-1] > min(totals)
    assert all(before >= after for before, after in pairwise(totals[:-1]))


def test_a_guided_writer_finds_a_caption_nearer_to_the_picture(problem):
    def cosine(weight: float) -> float:
        method = WordWriter(words=8, search_width=24, weight=weight)
        start = [problem.encode(word) for word in ("a", "the", "one")]
        found = optimize(problem, start, method=method, search=Beam(3), budget=Budget(steps=8))
        return 1 - found.losses["image"]

    assert cosine(2.0) > cosine(0.0)


def test_edits_by_hand():
    a, b, c = [1], [2, 3], [4]
    assert exchanges([a, b, a]) == []
    assert exchanges([a, b, c]) == [[c, b, a]]
    assert omissions([a, b], 3) == [[b], [a]]
    assert omissions([a, b, c], 2) == [[b, c], [a, c], [a, b], [c], [a]]
    assert omissions([a], 3) == []


def test_a_step_of_edits_makes_every_edit_once(problem):
    method = WordEdits(swaps=2, pairs=2, insertions=1, omissions=1)
    run = run_of(problem, method, ["a small red star"])
    proposals = run.method.propose(run.search.select())
    assert proposals is not None
    words = 4
    counts = {"swaps": 2 * words, "pairs": 4 * (words - 1), "insertions": words + 1}
    assert len(proposals.prompts) == sum(counts.values()) + words + 3  # omissions, exchanges
    texts = [problem.decode(row.tolist()).split() for row in proposals.prompts]
    assert [len(text) for text in texts[:8]] == [4] * 8
    assert [len(text) for text in texts[20:25]] == [5] * 5
    assert [len(text) for text in texts[25:29]] == [3] * 4
    assert len(run.method.propose(run.search.select(), 7).prompts) == 7


def test_edits_never_make_a_prompt_worse(problem):
    found = optimize(problem, BASE, method=WordEdits(swaps=2, insertions=1), budget=Budget(steps=3))
    totals = [point.best for point in found.trajectory]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < totals[0]


@pytest.mark.parametrize("method", [WordWriter(), WordEdits()])
def test_a_source_that_cannot_write_is_refused(method, clip):
    problem = Problem(clip, [Term(TextSimilarity(texts="a star"), clip)], words=["star", "ring"])
    with pytest.raises(ModelError, match=f"{method.type}: .* as the source; expected a causal"):
        optimize(problem, "a ring", method=method, budget=Budget(steps=1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WordWriter(words=0), "write_words: words=0; expected at least 1"),
        (lambda: WordWriter(margin=-1.0), "write_words: margin=-1.0; expected at least 0"),
        (lambda: WordWriter(route="bus"), "route"),
        (lambda: WordEdits(pairs=-1), "edit_words: pairs=-1; expected at least 0"),
        (
            lambda: WordEdits(swaps=0, pairs=0, insertions=0, omissions=0, exchanges=False),
            "edit_words: no edits; expected one kind of them at least",
        ),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_the_route_through_the_adapter_needs_one_and_the_other_does_not(lm, clip, image_path):
    term = Term(ImageSimilarity(images=image_path), clip)
    problem = Problem(lm, [term], words=["red", "star", "circle"])
    optimize(problem, "a red", method=WordWriter(words=1), budget=Budget(steps=1))
    method = WordWriter(words=1, route=Route.ADAPTER)
    with pytest.raises(OptionError, match="no adapter"):
        optimize(problem, "a red", method=method, budget=Budget(steps=1))
