"""Anchored gradients: which anchors are drawn, and what is made of their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from fuse_index.errors import ModelError, OptionError
from fuse_index.objectives import Fluency, ImageSimilarity
from fuse_index.optimize import (
    GCG,
    PEZ,
    AutoDAN,
    Beam,
    Budget,
    Greedy,
    Problem,
    RandomSearch,
    Run,
    RunOptions,
    Term,
    WordEdits,
    WordSwaps,
    WordWriter,
    optimize,
)
from fuse_index.optimize.anchored import TokenAnchors, likeness, weighted
from fuse_index.optimize.anchors import SHARPNESS, AnchorDrawer, AnchorOptions
from fuse_index.optimize.gradient import embedding_gradient
from fuse_index.optimize.lexicon import replace_words
from fuse_index.optimize.likelihood import Likelihood
from fuse_index.optimize.methods.base import Context
from fuse_index.optimize.word_gradient import Expansion, WordDifferentiator
from fuse_index.words.ragged import Ragged
from tests.optimize.conftest import START

BASE = "the picture contains a gorgeous circle on the left"


@pytest.fixture(scope="module")
def clip_only(clip, clip_adapter, lm, image_path) -> Problem:
    """One target with other tokens than the source."""
    return Problem(lm, [Term(ImageSimilarity(images=image_path), clip, clip_adapter)])


def context_of(problem: Problem, seed: int = 0) -> Context:
    run = Run(
        problem,
        [problem.encode(START)],
        method=RandomSearch(),
        search=Greedy(),
        options=RunOptions(seed),
    )
    return run.context


def options_of(**given: object) -> AnchorOptions:
    options = AnchorOptions(**given)  # type: ignore[arg-type]
    options.check_anchors()
    return options


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 6))
def test_likeness_is_the_cosine_seen_from_the_anchors_mean(seed, anchors, count):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, 5, generator=generator)
    own = torch.randn(anchors, 5, generator=generator)
    centre = own.mean(0)
    expected = cosine_similarity((own - centre)[:, None], (vectors - centre)[None], dim=2)
    torch.testing.assert_close(likeness(vectors, own), expected, rtol=1e-3, atol=1e-4)


def test_weighted_predictions_are_exact_for_a_linear_loss():
    generator = torch.Generator().manual_seed(1)
    vectors, gradient = torch.randn(9, 4, generator=generator), torch.randn(4, generator=generator)
    anchors = vectors[[2, 5, 7]]
    losses = anchors @ gradient + 3.0
    values = (vectors @ gradient).expand(3, -1)
    alike = likeness(vectors, anchors)
    counted = torch.tensor([True, False, True])
    for which in (None, counted):
        found = weighted(values, losses, anchors @ gradient, alike, which)
        torch.testing.assert_close(found, vectors @ gradient + 3.0)
    none = torch.zeros(3, dtype=torch.bool)
    assert not weighted(values, losses, losses, alike, none).any()


def test_an_anchor_predicts_what_is_like_it():
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    losses, own = torch.tensor([10.0, 20.0]), torch.tensor([1.0, 5.0])
    alike = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    share = 1 / (1 + np.exp(-2 * SHARPNESS))
    expected = [share * 10 + (1 - share) * 18, share * 20 + (1 - share) * 11]
    torch.testing.assert_close(weighted(values, losses, own, alike), torch.tensor(expected).float())


@pytest.mark.parametrize("average", ["plain", "weighted"])
def test_tokens_are_predicted_from_prompts_with_other_tokens_in_the_place(problem, average):
    context, slots = context_of(problem), [6, 2]
    ids = problem.encode(START)
    anchors = TokenAnchors(options_of(anchors=3, anchor_average=average), context)
    before = context.gradients.spent.gradients
    drawn = anchors.draw(ids, slots)
    found = anchors.scores(drawn, slots)
    assert context.gradients.spent.gradients == before + 6
    table = problem.source.table()
    for i, slot in enumerate(slots):
        rows = drawn.rows.select(np.arange(3 * i, 3 * i + 3))
        tokens = [int(row[slot]) for row in rows]
        assert rows.to_lists() == [[*ids[:slot], token, *ids[slot + 1 :]] for token in tokens]
        assert problem.allowed[tokens].all()
        values = context.gradients.tokens(rows, context.weights)[:, slot]
        expected = values.mean(0)
        if average == "weighted":
            losses = torch.tensor(context.totals(rows)).float()
            own = values[torch.arange(3), tokens]
            weights = torch.softmax(SHARPNESS * likeness(table, table[tokens]), dim=0)
            expected = (weights * (values - own[:, None] + losses[:, None])).sum(0)
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-4)


def test_all_places_at_once_cost_one_gradient_an_anchor(problem):
    context, ids = context_of(problem), problem.encode(START)
    anchors = TokenAnchors(options_of(anchors=5, anchor_places="all"), context)
    drawn = anchors.draw(ids, [0])
    assert drawn.slots is None
    assert len(drawn.rows) == 5
    changed = [sum(a != b for a, b in zip(row, ids, strict=True)) for row in drawn.rows]
    assert 0 < sum(changed) < 5 * len(ids)
    slots = [4, 1]
    every = context.gradients.tokens(drawn.rows, context.weights).mean(0)
    torch.testing.assert_close(anchors.scores(drawn, slots), every[slots], rtol=1e-4, atol=1e-5)
    found = anchors.embeddings(drawn)
    expected = context.gradients.embeddings(drawn.rows, context.weights).mean(0)
    torch.testing.assert_close(found, expected)


def test_embeddings_take_each_places_own_anchors(problem):
    context, ids = context_of(problem), problem.encode(START)
    anchors = TokenAnchors(options_of(anchors=2), context)
    drawn = anchors.draw(ids, range(len(ids)))
    every = context.gradients.embeddings(drawn.rows, context.weights)
    expected = torch.stack([every[[2 * i, 2 * i + 1], i].mean(0) for i in range(len(ids))])
    torch.testing.assert_close(anchors.embeddings(drawn), expected)


def test_a_small_batch_gives_the_same(problem):
    ids, found = problem.encode(START), []
    for size in (None, 2):
        context = context_of(problem, seed=4)
        rows = context.gradients.rows
        rows.size = rows.size if size is None else size
        anchors = TokenAnchors(options_of(anchors=3), context)
        found.append(anchors.scores(anchors.draw(ids, [1, 3]), [1, 3]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_memory_that_runs_out_halves_the_backward_pass(problem, monkeypatch):
    context, ids = context_of(problem), problem.encode(START)
    anchors = TokenAnchors(options_of(anchors=8), context)
    drawn = anchors.draw(ids, [1])
    expected = anchors.scores(drawn, [1])
    plain = context.gradients.expand

    def tight(rows: Ragged, weights: object) -> object:
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(rows, weights)  # type: ignore[arg-type]

    monkeypatch.setattr(context.gradients, "expand", tight)
    torch.testing.assert_close(anchors.scores(drawn, [1]), expected, rtol=1e-4, atol=1e-5)
    assert context.gradients.rows.size <= 3


def test_the_model_suggests_what_it_expects(problem):
    context, ids = context_of(problem), problem.encode(START)
    likely = Likelihood(problem, problem.source, context.gradients.spent).along(ids)
    drawer = TokenAnchors(options_of(anchors=200, anchor_source="model"), context).drawer
    before = context.gradients.spent.predicted
    drawn = drawer.draw(ids, np.arange(len(ids) + 1), [5])
    assert context.gradients.spent.predicted == before + 1
    tokens = drawer.pool.values[drawn.units]
    assert len(set(tokens.tolist())) == drawn.each == min(200, len(drawer.pool))
    pool = torch.from_numpy(drawer.pool.values)
    # drawn without repeats in proportion to their probabilities: the likely ones come early
    ranks = torch.argsort(torch.argsort(-likely[5][pool]))[torch.from_numpy(drawn.units)].float()
    assert ranks[:20].mean() < ranks[-20:].mean()


def place_gradient(problem: Problem, text: str, slot: int) -> torch.Tensor:
    """The gradient summed over a word's target tokens, by hand."""
    rows = problem.terms[0].model.words.encode_words(text.split())
    _, packed = embedding_gradient(problem.losses[0], [rows.values.tolist()])
    return packed[rows.offsets[slot] : rows.offsets[slot + 1]].sum(0)


def test_words_are_predicted_from_prompts_with_other_words_in_the_place(clip_only):
    context, slot = context_of(clip_only), 4
    words = WordDifferentiator(context.gradients, clip_only.lexicon)
    places = words.places(clip_only.encode(BASE))
    drawer = AnchorDrawer(options_of(anchors=5), context, clip_only.lexicon.source)
    drawn = drawer.draw(places.ids, places.offsets, [slot])
    before = context.gradients.spent.gradients
    found = words.at(places, np.ones(1), slots=[slot], expansion=Expansion.ANCHORS, anchors=drawn)[
        0
    ]
    assert context.gradients.spent.gradients == before + 5
    texts = []
    for unit in drawn.units.tolist():
        parts = BASE.split()
        parts[slot] = clip_only.lexicon.words[unit]
        texts.append(" ".join(parts))
    sums = torch.stack([place_gradient(clip_only, text, slot) for text in texts])
    torch.testing.assert_close(found.sums[0], sums.mean(0), rtol=1e-3, atol=1e-6)

    average = options_of(anchor_average="weighted").anchor_average
    spread = words.at_anchors(drawn, np.ones(1), average)
    rows = Ragged.from_lists([clip_only.encode(text) for text in texts])
    losses = torch.tensor(context.totals(rows)).float()
    vectors = clip_only.lexicon.of(clip_only.terms[0].model).vectors
    own = vectors[drawn.units]
    weights = torch.softmax(SHARPNESS * likeness(vectors, own), dim=0)
    predicted = losses[:, None] + sums @ vectors.T - (sums * own).sum(1, keepdim=True)
    expected = (weights * predicted).sum(0)
    torch.testing.assert_close(words.in_word_space(spread)[0], expected, rtol=1e-3, atol=1e-4)
    # through the adapter, every anchor predicts its own loss for itself
    one = options_of(anchors=1, anchor_average="weighted")
    alone = AnchorDrawer(one, context, clip_only.lexicon.source).draw(
        places.ids, places.offsets, [slot]
    )
    adapted = words.through_adapter(words.at_anchors(alone, np.ones(1), average))
    itself = float(context.totals(alone.rows)[0])
    assert float(adapted[0, int(alone.units[0])]) == pytest.approx(itself, abs=1e-4)


def test_words_in_all_places_at_once(clip_only):
    context = context_of(clip_only)
    words = WordDifferentiator(context.gradients, clip_only.lexicon)
    places = words.places(clip_only.encode(BASE))
    options = options_of(anchors=4, anchor_places="all")
    drawer = AnchorDrawer(options, context, clip_only.lexicon.source)
    drawn = drawer.draw(places.ids, places.offsets, [3, 8])
    found = words.at(places, np.ones(1), slots=[3, 8], expansion=Expansion.ANCHORS, anchors=drawn)[
        0
    ]
    texts = [clip_only.decode(row.tolist()) for row in drawn.rows]
    for i, slot in enumerate((3, 8)):
        sums = torch.stack([place_gradient(clip_only, text, slot) for text in texts])
        torch.testing.assert_close(found.sums[i], sums.mean(0), rtol=1e-3, atol=1e-6)


METHODS = [
    GCG(search_width=8, anchors=2, places=2),
    GCG(search_width=8, anchors=2, places=2, draw="best", anchor_average="weighted"),
    GCG(search_width=8, anchors=3, anchor_places="all", anchor_source="model"),
    AutoDAN(length=12, search_width=8, anchors=2, anchor_source="model", iterations=2),
    AutoDAN(length=12, search_width=8, anchors=2, anchor_average="weighted", iterations=2),
    AutoDAN(length=12, search_width=8, anchors=2, anchor_places="all", iterations=2),
    PEZ(anchors=2, anchor_places="all"),
    PEZ(anchors=1, anchor_source="model"),
    WordSwaps(search_width=8, expansion="anchors", anchors=2, places=1, anchor_source="model"),
    WordSwaps(
        search_width=8, expansion="anchors", places=1, anchor_average="weighted", guide="mixture"
    ),
    WordSwaps(search_width=8, expansion="anchors", anchors=3, anchor_places="all"),
    WordWriter(words=3, search_width=8, anchors=2, anchor_source="model"),
    WordWriter(words=3, search_width=8, anchors=2, anchor_average="weighted", route="mixture"),
    WordEdits(anchors=2, pairs=0, insertions=0),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.type)
def test_every_method_takes_anchors_and_repeats_itself(problem, method):
    runs = [
        optimize(
            problem,
            START,
            method=method,
            search=Beam(2),
            budget=Budget(steps=2),
            options=RunOptions(seed=5),
        )
        for _ in range(2)
    ]
    assert [p.ids for p in runs[0].trajectory] == [p.ids for p in runs[1].trajectory]
    assert runs[0].spent["gradients"] >= method.anchors
    assert (runs[0].spent["predicted"] > 0) >= (method.anchor_source.value == "model")


def test_anchors_change_what_gcg_proposes_and_cost_their_gradients(problem):
    spent = {}
    for anchors, places in ((0, "own"), (2, "own"), (3, "all")):
        method = GCG(search_width=8, anchors=anchors, anchor_places=places, places=3)
        result = optimize(problem, START, method=method, budget=Budget(steps=1))
        spent[anchors] = result.spent["gradients"]
    assert spent == {0: 1, 2: 6, 3: 3}


def test_gcg_can_work_on_few_places(lm_problem):
    context = context_of(lm_problem)
    for draw in ("uniform", "best"):
        run = Run(
            lm_problem,
            [lm_problem.encode(START)],
            method=GCG(search_width=20, places=2, draw=draw),
            search=Greedy(),
            options=RunOptions(),
        )
        states = run.search.select()
        rows = run.method.propose(states).prompts.padded()
        changed = (rows != np.array(states[0].ids)).any(axis=0)
        assert 1 <= changed.sum() <= 2
    assert context.problem is lm_problem


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GCG(anchors=-1), "gcg: anchors=-1; expected at least 0"),
        (lambda: GCG(anchor_source="luck"), "gcg: anchor_source 'luck'; expected one of vocab"),
        (
            lambda: GCG(anchor_average="weighted", anchor_places="all"),
            "gcg: anchor_average 'weighted' with anchor_places 'all'",
        ),
        (
            lambda: PEZ(anchor_average="weighted"),
            "pez: anchor_average 'weighted'; expected 'plain'",
        ),
        (lambda: WordWriter(anchor_places="all"), "write_words: anchor_places 'all'; expected"),
        (lambda: GCG(places=0), "gcg: places=0; expected at least 1"),
    ],
)
def test_options_that_do_not_go_together(make, message):
    with pytest.raises(OptionError) as caught:
        make()
    assert message in str(caught.value)


def test_only_a_causal_model_suggests_anchors(clip, image):
    problem = Problem(clip, [Term(ImageSimilarity(images=image), clip)])
    method = GCG(anchors=2, anchor_source="model")
    with pytest.raises(ModelError, match="anchors from the model"):
        optimize(problem, "a circle", method=method, budget=Budget(steps=1))


def test_replacing_is_what_the_lexicon_does(lm):
    problem = Problem(lm, [Term(Fluency(), lm)], words=["circle", "triangle"])
    context = context_of(problem)
    words = WordDifferentiator(context.gradients, problem.lexicon)
    places = words.places(problem.encode(BASE))
    drawer = AnchorDrawer(options_of(anchors=4), context, problem.lexicon.source)
    drawn = drawer.draw(places.ids, places.offsets, [1])
    tokens = problem.lexicon.source
    assert drawn.rows.to_lists() == [
        replace_words(places.ids, places.offsets, [1], [tokens[unit].tolist()])
        for unit in drawn.units
    ]
