"""PEZ over words: its points, what they project to, and its gradients."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fuse_index.optimize.gradient import embedding_gradient
from fuse_index.optimize.methods.word_pez import WordSpace
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.models import Model
from fuse_index.models.batch import Batch
from fuse_index.objectives import CustomObjective, ImageSimilarity
from fuse_index.optimize import (
    Budget,
    Greedy,
    Problem,
    Route,
    Run,
    RunOptions,
    Term,
    WordPEZ,
    optimize,
)
from fuse_index.optimize.methods.base import Context

BASE = "the picture contains a gorgeous circle on the left"
PLAIN = "the picture contains a small circle on the left"
"""Of words of one source token."""


@pytest.fixture(scope="module")
def clip_only(clip, clip_adapter, lm, image_path) -> Problem:
    """One target with other tokens than the source."""
    return Problem(lm, [Term(ImageSimilarity(images=image_path), clip, clip_adapter)])


def context_of(problem: Problem) -> Context:
    initial = [problem.encode(BASE)]
    run = Run(problem, initial, method=WordPEZ(), search=Greedy(), options=RunOptions())
    return run.context


@pytest.mark.parametrize("route", [Route.WORD, Route.ADAPTER])
def test_points_project_to_the_nearest_word(problem, route):
    space = WordSpace(WordPEZ(), context_of(problem), route)
    lexicon = problem.lexicon
    models = [problem.source] if route is Route.ADAPTER else [t.model for t in problem.terms]
    parts = [lexicon.of(model).vectors for model in models]
    words = torch.cat([own / own.square().mean().sqrt() for own in parts], dim=1).double()
    points = torch.randn(40, words.shape[1], generator=torch.Generator().manual_seed(0))
    cosines = torch.nn.functional.cosine_similarity(points.double()[:, None], words[None], dim=2)
    assert torch.equal(space.nearest(points), cosines.argmax(1))
    rows = torch.arange(0, len(lexicon), 7)
    assert (space.nearest(words[rows].float()) == rows).float().mean() > 0.95  # but for equals


@pytest.mark.parametrize("route", [Route.WORD, Route.ADAPTER])
def test_it_begins_at_the_words_of_the_prompt(problem, route):
    space = WordSpace(WordPEZ(), context_of(problem), route)
    units = space.nearest(space.begin(problem.encode(PLAIN)))
    assert [problem.lexicon.words[i] for i in units.tolist()] == PLAIN.split()
    assert problem.decode(space.prompt(units.tolist())).strip() == PLAIN


def test_gradients_are_summed_over_each_words_tokens(clip_only, clip):
    space = WordSpace(WordPEZ(relative=False), context_of(clip_only), Route.WORD)
    words = clip_only.lexicon.words
    found = space.gradients([[words.index(word) for word in BASE.split()]])[0]
    rows = clip.words.encode_words(BASE.split())
    _, packed = embedding_gradient(clip_only.losses[0], [rows.values.tolist()])
    for i in range(len(rows)):
        own = packed[rows.offsets[i] : rows.offsets[i + 1]].sum(0)
        torch.testing.assert_close(found[i], own, rtol=1e-3, atol=1e-6)


def test_gradients_through_the_adapter_move_a_words_tokens_together(clip_only):
    space = WordSpace(WordPEZ(relative=False), context_of(clip_only), Route.ADAPTER)
    words = clip_only.lexicon.words
    found = space.gradients([[words.index(word) for word in BASE.split()]])[0]
    reader = clip_only.readers[0]
    parts = BASE.split()
    target = clip_only.terms[0].model.words.encode_words(parts)
    source = clip_only.source.words.encode_words(parts)
    _, packed = embedding_gradient(clip_only.losses[0], [target.values.tolist()])
    for i in range(len(parts)):
        own = packed[target.offsets[i] : target.offsets[i + 1]]
        q, p = int(target.lengths[i]), int(source.lengths[i])
        spread = own.sum(0).expand(q, -1) / q
        pulled = reader.adapter.pull_back(spread, reader.adapter.layout([p], [q])).sum(0)
        torch.testing.assert_close(found[i], pulled, rtol=1e-3, atol=1e-6)


def test_it_slides_down_a_bowl_of_words(lm: Model) -> None:
    wanted = "a square contains the small picture of the right"
    texts = sorted({*BASE.split(), *wanted.split(), "circle", "triangle", "star", "large"})
    target = lm.table()[list(Problem(lm, [_term(lm, lm.table()[:1])]).encode(wanted))]
    problem = Problem(lm, [_term(lm, target)], words=texts)
    method = WordPEZ(weight_decay=0)
    result = optimize(problem, PLAIN, method=method, budget=Budget(steps=150))
    totals = [point.total for point in result.trajectory]
    assert all(a >= b for a, b in pairwise(totals))
    assert result.total < 0.3 * totals[0]
    assert set(result.text.split()) <= set(texts)


def _term(lm: Model, target: Tensor) -> Term:
    def distance(model: Model, embeds: Tensor, batch: Batch) -> Tensor:
        own = embeds[:, batch.start :]
        length = min(own.shape[1], len(target))
        apart = (own[:, :length] - target[:length]).square().sum(dim=2)
        return (apart * batch.content[:, batch.start :][:, :length]).sum(dim=1)

    return Term(CustomObjective(function=distance), lm)


@pytest.mark.parametrize("route", [Route.WORD, Route.ADAPTER, Route.MIXTURE])
def test_it_resumes_and_keeps_words_whole(problem, tmp_path: Path, route):
    method = WordPEZ(route=route, restarts=1, learning_rate=1.0, anchors=2, anchor_places="all")
    whole = optimize(problem, PLAIN, method=method, budget=Budget(steps=6))
    path = tmp_path / "run.ckpt"
    optimize(problem, PLAIN, method=method, budget=Budget(steps=3), checkpoint=path)
    again = optimize(problem, PLAIN, method=method, budget=Budget(steps=6), checkpoint=path)
    assert [p.ids for p in again.trajectory] == [p.ids for p in whole.trajectory]
    assert [p.candidates for p in again.trajectory] == [p.candidates for p in whole.trajectory]
    assert sum(p.candidates for p in whole.trajectory) > 1
    assert len(whole.text.split()) == len(PLAIN.split())
    assert set(whole.text.split()) <= set(problem.lexicon.words)


def test_a_weight_of_zero_leaves_a_part_alone(problem):
    context = context_of(problem)
    space = WordSpace(WordPEZ(), context, Route.WORD)
    units = space.nearest(space.begin(problem.encode(PLAIN))).tolist()
    context.weights = np.array([0.0, 2.0])
    found = space.gradients([units])[0]
    width = problem.source.width
    assert not found[:, :width].any()
    assert found[:, width:].any()


def test_it_needs_no_adapter_in_word_space(lm, clip, image, clip_only):
    problem = Problem(
        lm, [Term(ImageSimilarity(images=image), clip)], words=clip_only.lexicon.words
    )
    result = optimize(problem, BASE, method=WordPEZ(), budget=Budget(steps=3))
    assert result.spent["gradients"] >= 1
    with pytest.raises(OptionError, match="no adapter from"):
        optimize(problem, BASE, method=WordPEZ(route="adapter"), budget=Budget(steps=1))
    with pytest.raises(OptionError, match="soft_words: learning_rate=0"):
        WordPEZ(learning_rate=0)
    with pytest.raises(OptionError, match="soft_words: route 'layers'; expected word, adapter"):
        WordPEZ(route="layers")
