"""One clear line for everything that is wrong."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from fuse_index.errors import (
    MissingDependencyError,
    OptionError,
    ShapeError,
    VocabularyError,
)
from fuse_index.index import IndexOptions, Kind, Mask, Side, WordIndex
from fuse_index.words.ragged import Ragged
from tests.index import helpers

N = 30


@pytest.fixture(scope="module")
def index() -> WordIndex:
    sides = helpers.make_sides(N, {"source": 3, "target": 4})
    return WordIndex.build(*helpers.make_words(N), sides, IndexOptions(Kind.TOKENS))


def test_queries(index):
    with pytest.raises(ShapeError, match=r"queries of shape \(2, 6\); expected \(queries, 7\)"):
        index.search(torch.zeros(2, 6), 3)
    with pytest.raises(ShapeError, match=r"queries of shape \(7,\)"):
        index.search(torch.zeros(7), 3)
    bad = torch.zeros(3, 7)
    bad[1, 2] = torch.nan
    with pytest.raises(ShapeError, match="queries: row 1 holds NaN or infinity"):
        index.search(bad, 3)
    with pytest.raises(OptionError, match="metric dot; expected one of ip, cosine, l2"):
        index.search(torch.zeros(1, 7), 3, metric="dot")


@pytest.mark.parametrize("top_k", [0, N + 1, 2.0])
def test_top_k(index, top_k):
    with pytest.raises(OptionError, match=rf"top_k={top_k}; expected 1 to {N}, the number of wor"):
        index.search(torch.zeros(1, 7), top_k)


def test_masks(index):
    mask = index.mask(ids=[1, 2])
    with pytest.raises(OptionError, match="top_k=3; expected 1 to 2, the number of allowed words"):
        index.search(torch.zeros(1, 7), 3, mask)
    with pytest.raises(OptionError, match=f"a mask that allows none of {N} words"):
        index.mask(ids=[])
    with pytest.raises(OptionError, match=f"a mask that allows none of {N} words"):
        _ = index.mask(ids=[1]) & index.mask(ids=[2])
    with pytest.raises(OptionError, match=rf"word ids from 0 to {N}; expected 0 to {N - 1}"):
        index.mask(ids=[0, N])
    with pytest.raises(OptionError, match="model 'clip'; expected one of"):
        index.mask(tokens={"clip": 1})
    with pytest.raises(OptionError, match="a range from 3 to 1; expected a range that rises"):
        index.mask(count=(3, 1))
    with pytest.raises(ShapeError, match=rf"a mask of 5 words; expected {N}, the words of the"):
        index.search(torch.zeros(1, 7), 1, Mask(np.ones(5, np.bool_)))
    with pytest.raises(ShapeError, match=r"a mask of shape \(5,\) and dtype float64"):
        Mask(np.ones(5))


def test_joint_queries(index):
    with pytest.raises(ShapeError, match=r"queries of models \['clip'\]"):
        index.joint({"clip": torch.zeros(1, 3)}, 1)
    with pytest.raises(ShapeError, match=r"the target's queries of shape \(1, 3\)"):
        index.joint({"target": torch.zeros(1, 3)}, 1)
    with pytest.raises(ShapeError, match="as many for every model"):
        index.joint({"source": torch.zeros(1, 3), "target": torch.zeros(2, 4)}, 1)


def test_words_and_models():
    table = torch.zeros(4, 3)
    rows = Ragged.from_lists([[0], [1, 2]])
    with pytest.raises(ShapeError, match="token ids of the target from 0 to 9; expected 0 to 3"):
        Side("target", Ragged.from_lists([[0], [9]]), table)
    with pytest.raises(VocabularyError, match="word 1 has no token in the target"):
        Side("target", Ragged.from_lists([[0], []]), table)
    with pytest.raises(ShapeError, match=r"embeddings of the target of shape \(4,\)"):
        Side("target", rows, torch.zeros(4))
    words, counts = helpers.make_words(2)
    with pytest.raises(ShapeError, match="distinct names with the same words"):
        WordIndex.build(words, counts, [Side("a", rows, table), Side("a", rows, table)])
    with pytest.raises(ShapeError, match="3 words, 2 counts and vectors of 2 words"):
        WordIndex.build((*words, "more"), counts, [Side("a", rows, table)])
    with pytest.raises(VocabularyError, match="an index of 0 words"):
        WordIndex.build((), counts[:0], [Side("a", Ragged.from_lists([]), table)])


def test_added_words(index):
    with pytest.raises(OptionError, match=r"words \['word0'\] twice; expected words that are"):
        index.add([index.words[0]], {"source": [[1]], "target": [[1]]})
    with pytest.raises(OptionError, match=r"tokens for models \['source'\]; expected for"):
        index.add(["new"], {"source": [[1]]})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "ball-tree"}, "kind 'ball-tree'; expected one of auto, flat, tokens, pq"),
        ({"recall": 0.0}, "recall=0.0; expected more than 0"),
        ({"recall": 1.5}, "recall=1.5; expected at most 1"),
        ({"recall": float("nan")}, "recall=nan; expected"),
        ({"memory": float("nan")}, "memory=nan; expected a finite number"),
        ({"memory": 0.0}, "memory=0.0; expected more than 0"),
        ({"top_k": 0}, "top_k=0; expected at least 1"),
        ({"seed": -1}, "seed=-1; expected at least 0"),
        ({"representation": "sum"}, "representation 'sum'; expected one of mean, padded"),
    ],
)
def test_options(options, words):
    with pytest.raises(OptionError, match=words):
        IndexOptions(**options)


def test_an_approximate_kind_needs_words_to_train_on():
    sides = helpers.make_sides(N, {"target": 4})
    with pytest.raises(OptionError, match=r"kind 'pq' for 30 words; expected at least 1024"):
        WordIndex.build(*helpers.make_words(N), sides, IndexOptions(Kind.PQ))


def test_a_recall_out_of_reach_is_said():
    sides = helpers.make_sides(2000, {"target": 16}, vocabulary=2000)
    options = IndexOptions(Kind.PQ, recall=1.0, memory=0.001, top_k=10)
    with pytest.raises(OptionError, match=r"kind 'pq' reaches a recall of .* with at most 0 MB"):
        WordIndex.build(*helpers.make_words(2000), sides, options)


def test_without_faiss_auto_still_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    sides = helpers.make_sides(2000, {"target": 16})
    words = helpers.make_words(2000)
    index = WordIndex.build(*words, sides, IndexOptions(Kind.AUTO))
    assert index.options.kind is Kind.TOKENS
    assert index.search(torch.ones(1, 16), 3)[0].shape == (1, 3)
    with pytest.raises(MissingDependencyError, match=r"faiss cannot be imported .*faiss-cpu"):
        WordIndex.build(*words, sides, IndexOptions(Kind.FLAT))
