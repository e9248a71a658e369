"""A bundle's word index inside the optimizers: the same words as by scoring all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fuse_index.adapter import Adapter
from fuse_index.build import build_bundle
from fuse_index.bundle import read_bundle
from fuse_index.demo import DemoModel, model_name, write_corpus
from fuse_index.index import IndexOptions, Kind, WordIndex, add_index
from fuse_index.objectives import Fluency, ImageSimilarity
from fuse_index.optimize import (
    Budget,
    Greedy,
    Problem,
    RandomSearch,
    Run,
    RunOptions,
    Term,
    TokenFilter,
    WordPEZ,
    WordSwaps,
    optimize,
)
from fuse_index.optimize.methods.word_pez import WordSpace
from fuse_index.optimize.word_gradient import WordDifferentiator, best_words
from fuse_index.optimize.word_merit import Route
from fuse_index.optimize.word_search import find_index

BASE = "the picture contains a small circle on the left"


@pytest.fixture(scope="module")
def indexed(lm, clip, tmp_path_factory) -> Adapter:
    """An adapter of a bundle with exact indexes of the target and of both models."""
    folder = tmp_path_factory.mktemp("indexed")
    corpus = write_corpus(folder / "corpus.txt", scenes=150)
    names = model_name(DemoModel.LM), model_name(DemoModel.CLIP)
    bundle = read_bundle(build_bundle(*names, folder / "bundle", [corpus]).path)
    tables = {"source": lm.table(), "target": clip.table()}
    options = IndexOptions(kind=Kind.TOKENS)
    for name, given in {"target": ["target"], "source": ["source"], "joint": [*tables]}.items():
        chosen = {side: tables[side] for side in given}
        index = WordIndex.from_table(bundle.table, **chosen, options=options)
        add_index(bundle.path, index, name)
    return Adapter.from_pretrained(bundle.path)


@pytest.fixture(scope="module")
def both(lm, clip, indexed, image_path) -> Problem:
    """Fluent, and like the picture; some words of the bundle are left out."""
    terms = [
        Term(Fluency(weight=0.1), lm),
        Term(ImageSimilarity(images=image_path), clip, indexed),
    ]
    return Problem(lm, terms, tokens=TokenFilter(deny_pattern="circle"))


@pytest.fixture(scope="module")
def one(lm, clip, indexed, image_path) -> Problem:
    return Problem(lm, [Term(ImageSimilarity(images=image_path), clip, indexed)])


def context_of(problem: Problem):
    initial = [problem.encode(BASE)]
    options = RunOptions()
    return Run(problem, initial, method=RandomSearch(), search=Greedy(), options=options).context


@pytest.mark.parametrize("which", ["both", "one"])
def test_one_search_finds_what_scoring_all_words_finds(which, request):
    problem = request.getfixturevalue(which)
    context = context_of(problem)
    words = WordDifferentiator(context.gradients, problem.lexicon, index_from=0)
    assert words.index is not None
    assert words.index.index.models == (("source", "target") if which == "both" else ("target",))
    taken = words.at(words.places(problem.encode(BASE)), context.weights)
    change = words.in_word_space(taken)
    found, expected = words.top(taken, 12), best_words(change, 12)
    torch.testing.assert_close(
        change.gather(1, found), change.gather(1, expected), rtol=1e-4, atol=1e-6
    )
    assert (found == expected).float().mean() > 0.9


def test_few_words_and_other_words_are_scored_one_by_one(both, lm, clip, indexed, image_path):
    readers = both.readers
    assert find_index(both.lexicon, readers) is None
    assert find_index(both.lexicon, readers, least=0) is not None
    terms = [Term(ImageSimilarity(images=image_path), clip, indexed)]
    given = Problem(lm, terms, words=["circle", "zebra"])
    assert find_index(given.lexicon, given.readers, least=0) is None


def test_the_nearest_word_is_found_by_the_index(one, both):
    for problem, route in ((one, Route.WORD), (both, Route.ADAPTER)):
        context = context_of(problem)
        exact = WordSpace(WordPEZ(), context, route)
        asked = WordSpace(WordPEZ(index_from=0), context, route)
        assert exact._index is None
        assert asked._index is not None
        width = exact.begin(problem.encode(BASE)).shape[1]
        points = torch.randn(30, width, generator=torch.Generator().manual_seed(1))
        assert (exact.nearest(points) == asked.nearest(points)).float().mean() > 0.95


def test_runs_are_those_without_an_index(both):
    found = [
        optimize(
            both,
            BASE,
            method=WordSwaps(search_width=12, top_k=8, index_from=least),
            budget=Budget(steps=2),
        )
        for least in (0, 10**9)
    ]
    assert found[0].total == pytest.approx(found[1].total, abs=1e-5)


def test_an_index_of_other_embeddings_is_not_asked(both, monkeypatch, caplog, lm):
    monkeypatch.setattr(type(lm), "table", lambda self: torch.zeros(self.vocabulary_size, 4))
    assert find_index(both.lexicon, both.readers, least=0) is None
    assert "all words are scored instead" in caplog.text


def test_a_folder_without_an_index_scores_all(lm, clip, clip_adapter, image_path):
    problem = Problem(lm, [Term(ImageSimilarity(images=image_path), clip, clip_adapter)])
    assert find_index(problem.lexicon, problem.readers, least=0) is None
    assert Path(clip_adapter.bundle.path).is_dir()
