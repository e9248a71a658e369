"""A bundle's word index inside the optimizers: the same words as by ranking all."""

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
from fuse_index.optimize import GCG, Budget, Problem, Spent, Term, TokenFilter, optimize
from fuse_index.optimize.spaces import WordSpace
from fuse_index.predict import Gradients, Predictor
from fuse_index.predict import indexed as indexed_module
from fuse_index.predict.indexed import find_index
from tests.demo_models import START
from tests.predict.helpers import word_predictor


@pytest.fixture
def ask(monkeypatch):
    """Indexes are asked from the first word on."""
    monkeypatch.setattr(indexed_module, "INDEX_FROM", 0)


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


@pytest.mark.parametrize("which", ["both", "one"])
def test_one_search_finds_what_ranking_all_words_finds(which, request, ask):
    problem = request.getfixturevalue(which)
    words = word_predictor(problem)
    spans = words.units.spans(problem.encode(START))
    everywhere = range(len(spans))
    ((asked,),) = words.rank([spans], [everywhere], problem.weights)
    ((ranked,),) = words.rank([spans], [everywhere], problem.weights, every=True)
    assert words._index.index.models == (("source", "target") if which == "both" else ("target",))
    assert not len(asked.changes)
    found, expected = asked.best(12), ranked.best(12)
    change = ranked.changes
    torch.testing.assert_close(
        change.gather(1, found), change.gather(1, expected), rtol=1e-4, atol=1e-6
    )
    assert (found == expected).float().mean() > 0.9


def test_few_words_and_other_words_are_ranked_one_by_one(
    both, lm, clip, indexed, image_path, monkeypatch
):
    assert find_index(both.word_units, both.targets) is None
    monkeypatch.setattr(indexed_module, "INDEX_FROM", 0)
    assert find_index(both.word_units, both.targets) is not None
    terms = [Term(ImageSimilarity(images=image_path), clip, indexed)]
    given = Problem(lm, terms, words=["circle", "zebra"])
    assert find_index(given.word_units, given.targets) is None


def test_other_predictors_ask_no_index(both, ask):
    for kind in ("adapter", "layers"):
        words = word_predictor(both, kind)
        spans = words.units.spans(both.encode(START))
        ((ranking,),) = words.rank([spans], [[1]], both.weights)
        assert ranking.changes.shape == (1, len(words.units))


@pytest.mark.parametrize(("which", "kind"), [("one", "embedding"), ("both", "adapter")])
def test_the_nearest_word_is_found_by_the_index(which, kind, request, monkeypatch):
    problem = request.getfixturevalue(which)
    spaces = []
    for least in (10**9, 0):
        monkeypatch.setattr(indexed_module, "INDEX_FROM", least)
        gradients = Gradients(problem, Spent())
        spaces.append(WordSpace(problem, gradients, Predictor(kind), relative=True))
    exact, asked = spaces
    assert exact._index is None
    assert asked._index is not None
    width = exact.begin(problem.encode(START)).shape[1]
    points = torch.randn(30, width, generator=torch.Generator().manual_seed(1))
    assert (exact.nearest(points) == asked.nearest(points)).float().mean() > 0.95


def test_runs_are_those_without_an_index(both, monkeypatch):
    method = GCG(
        unit="word",
        predictor="embedding",
        draw="uniform",
        search_width=12,
        top_k=8,
        positions=0,
        memory=0,
    )
    found = []
    for least in (0, 10**9):
        monkeypatch.setattr(indexed_module, "INDEX_FROM", least)
        found.append(optimize(both, START, method=method, budget=Budget(steps=2)))
    assert found[0].total == pytest.approx(found[1].total, abs=1e-5)


def test_an_index_of_other_embeddings_is_not_asked(both, monkeypatch, caplog, lm, ask):
    units = both.word_units
    monkeypatch.setattr(type(lm), "table", lambda self: torch.zeros(self.vocabulary_size, 4))
    assert find_index(units, both.targets) is None
    assert "all words are ranked instead" in caplog.text


def test_a_folder_without_an_index_ranks_all(lm, clip, clip_adapter, image_path, ask):
    problem = Problem(lm, [Term(ImageSimilarity(images=image_path), clip, clip_adapter)])
    assert find_index(problem.word_units, problem.targets) is None
    assert Path(clip_adapter.bundle.path).is_dir()
