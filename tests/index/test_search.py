"""Every kind, metric and representation against brute force, on values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.index import IndexOptions, Kind, Metric, Representation, WordIndex
from fuse_index.index.searching import FEW_WORDS
from fuse_index.index.top import TILE, best_of, best_of_chunks
from tests.index import helpers

METRICS = list(Metric)
REPRESENTATIONS = list(Representation)
APPROXIMATE = [kind for kind in Kind if not kind.exact and kind is not Kind.AUTO]


def small(kind: Kind, metric: Metric, representation: Representation, n: int = 150) -> WordIndex:
    sides = helpers.make_sides(n, {"source": 6, "target": 8})
    words, counts = helpers.make_words(n)
    options = IndexOptions(kind, metric, representation)
    return WordIndex.build(words, counts, sides, options)


@pytest.mark.smoke
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [Kind.FLAT, Kind.TOKENS])
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_exact_kinds_equal_brute_force(kind, metric, representation, batch):
    index = small(kind, metric, representation)
    queries = helpers.gradient_like(index, batch)
    vectors = helpers.brute_vectors(list(index.vectors.sides), representation)
    assert index.width == vectors.shape[1]
    for asked in METRICS:
        ids, scores = index.search(queries, 12, metric=asked)
        truth = helpers.brute_scores(vectors, queries.numpy(), asked)
        helpers.assert_best(ids, scores, truth)
    torch.testing.assert_close(
        index.search(queries, 12)[1], index.search(queries, 12, metric=metric)[1]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
def test_one_product_and_a_top_k_equals_brute_force(metric, dtype):
    index = small(Kind.TOKENS, metric, Representation.MEAN)
    dense = index.to("cpu", dtype)
    queries = helpers.gradient_like(index, 5)
    ids, scores = dense.search(queries, 9)
    vectors = index.vectors.matrix().to(dtype).double().numpy()
    truth = helpers.brute_scores(vectors, queries.to(dtype).float().numpy(), metric)
    helpers.assert_best(ids, scores, truth, tolerance=1e-3 if metric is Metric.L2 else 1e-4)
    mask = index.mask(ids=range(0, 150, 3))
    ids, scores = dense.search(queries, 9, mask)
    helpers.assert_best(ids, scores, truth, mask.allowed, tolerance=1e-3)


@pytest.fixture(scope="module")
def many():
    """Enough words for approximate kinds: more than a mask may allow to be few."""
    n = FEW_WORDS + 1500
    sides = helpers.make_sides(n, {"target": 16}, vocabulary=4000)
    return helpers.make_words(n), sides


@pytest.fixture(scope="module")
def built(many):
    cache: dict[tuple[Kind, Metric], WordIndex] = {}

    def build(kind: Kind, metric: Metric) -> WordIndex:
        if (kind, metric) not in cache:
            (words, counts), sides = many
            options = IndexOptions(kind, metric, recall=0.9, top_k=10, memory=30.0)
            queries = torch.randn(60, 16, generator=torch.Generator().manual_seed(1))
            cache[kind, metric] = WordIndex.build(words, counts, sides, options, queries=queries)
        return cache[kind, metric]

    return build


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", APPROXIMATE)
def test_approximate_kinds_reach_their_recall_with_exact_scores(built, many, kind, metric):
    index = built(kind, metric)
    queries = helpers.gradient_like(index, 30, seed=9)
    truth = helpers.brute_scores(
        helpers.brute_vectors(many[1], Representation.MEAN), queries.numpy(), metric
    )
    ids, scores = index.search(queries, 10)
    np.testing.assert_allclose(
        scores.numpy(), np.take_along_axis(truth, ids.numpy(), 1), rtol=1e-4, atol=1e-4
    )
    assert (scores.diff(dim=1) <= 1e-6).all()
    best = np.argsort(-truth, axis=1)[:, :10]
    found = [len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), best.tolist(), strict=True)]
    assert np.mean(found) >= 0.85
    assert index.report["recall"] >= 0.9
    assert index.options.kind is kind


@pytest.mark.parametrize("kind", [Kind.FLAT, Kind.TOKENS, *APPROXIMATE])
def test_masks_need_no_rebuilding(built, many, kind):
    index = built(kind, Metric.INNER_PRODUCT)
    queries = helpers.gradient_like(index, 40)
    truth = helpers.brute_scores(
        helpers.brute_vectors(many[1], Representation.MEAN), queries.numpy(), Metric.INNER_PRODUCT
    )
    most = index.mask(exclude=[1, 5, 9])
    few = index.mask(ids=range(0, len(index), 7))
    assert most.count > FEW_WORDS >= few.count
    ids, scores = index.search(queries, 10, few)
    helpers.assert_best(ids, scores, truth, few.allowed)
    best = int(truth[0].argmax())
    most = most & ~index.mask(ids=[best])
    ids, scores = index.search(queries, 10, most)
    assert best not in ids
    assert most.allowed[ids.numpy()].all()
    if kind.exact:
        helpers.assert_best(ids, scores, truth, most.allowed)
    else:
        kept = np.where(most.allowed, truth, -np.inf)
        want = np.argsort(-kept, axis=1)[:, :10]
        share = np.mean([np.isin(a, b).mean() for a, b in zip(ids.numpy(), want, strict=True)])
        assert share >= 0.8


def test_a_mask_that_hides_what_an_approximation_finds_is_still_answered(built):
    """Only the worst words are allowed."""
    index = built(Kind.PQ, Metric.INNER_PRODUCT)
    query = helpers.gradient_like(index, 1)
    order = index.search(query, len(index), metric=Metric.INNER_PRODUCT)[0][0]
    worst = order[-FEW_WORDS - 100 :]
    mask = index.mask(ids=worst)
    ids, scores = index.search(query, 100, mask)
    assert set(ids[0].tolist()) <= set(worst.tolist())
    assert torch.isfinite(scores).all()


def test_nearest_is_the_word_itself(built):
    index = built(Kind.PQ, Metric.INNER_PRODUCT)
    rows = [3, 100, 4000]
    ids, scores = index.nearest(index.vector(rows))
    torch.testing.assert_close(index.vector(ids[:, 0]), index.vector(rows))
    assert scores.abs().max() < 1e-9
    _, cosines = index.nearest(3.0 * index.vector(rows), metric=Metric.COSINE)
    torch.testing.assert_close(cosines, torch.ones(3, 1))


def test_joint_queries_fold_the_weights_in():
    index = small(Kind.TOKENS, Metric.INNER_PRODUCT, Representation.MEAN)
    source, target = torch.randn(4, 6), torch.randn(4, 8)
    vectors = helpers.brute_vectors(list(index.vectors.sides), Representation.MEAN)
    truth = 2.0 * source.numpy() @ vectors[:, :6].T - 0.5 * target.numpy() @ vectors[:, 6:].T
    both = {"source": source, "target": target}
    ids, scores = index.joint(both, 7, weights={"source": 2.0, "target": -0.5})
    helpers.assert_best(ids, scores, truth)
    ids, scores = index.joint({"target": target}, 7)
    helpers.assert_best(ids, scores, target.numpy() @ vectors[:, 6:].T)


def test_the_weights_of_sides_are_the_default():
    n = 40
    sides = helpers.make_sides(n, {"source": 3, "target": 4})
    heavy = [type(s)(s.name, s.tokens, s.table, w) for s, w in zip(sides, (1.0, 3.0), strict=True)]
    index = WordIndex.build(*helpers.make_words(n), heavy, IndexOptions(Kind.FLAT))
    queries = {"source": torch.randn(2, 3), "target": torch.randn(2, 4)}
    expected = index.search(torch.cat([queries["source"], 3.0 * queries["target"]], 1), 5)
    got = index.joint(queries, 5)
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("kind", [Kind.FLAT, Kind.TOKENS, Kind.PQ])
def test_added_words_are_found_and_the_old_index_stays(built, kind):
    index = built(kind, Metric.INNER_PRODUCT)
    n = len(index)
    side = index.vectors.sides[0]
    table = side.table
    single = torch.from_numpy(side.tokens.values[side.tokens.offsets[:-1]])
    tokens = int(single[side.tokens.lengths == 1][:50].unique()[-1])
    more = index.add(["neologism", "another"], {"target": [[tokens], [0, 1]]}, [5, 0])
    assert (len(index), len(more), more.added) == (n, n + 2, 2)
    ids, scores = more.search(table[tokens][None], 5)
    row = ids[0].tolist().index(n)
    torch.testing.assert_close(scores[0, row], table[tokens] @ table[tokens])
    assert n not in index.search(table[tokens][None], 5)[0]
    assert more.words[n] == "neologism"
    assert more.counts[n] == 5
    torch.testing.assert_close(more.vector([n + 1])[0], table[:2].mean(0))


def test_numpy_queries_and_no_queries_at_all(built):
    index = built(Kind.TOKENS, Metric.INNER_PRODUCT)
    queries = helpers.gradient_like(index, 3)
    assert torch.equal(index.search(queries.numpy(), 4)[0], index.search(queries, 4)[0])
    ids, scores = index.search(queries[:0], 4)
    assert ids.shape == scores.shape == (0, 4)


def test_a_query_of_zeros_scores_zero(built):
    index = built(Kind.TOKENS, Metric.INNER_PRODUCT)
    for batch in (1, 10):
        scores = index.search(torch.zeros(batch, index.width), 4)[1]
        assert torch.equal(scores, torch.zeros(batch, 4))
        assert torch.equal(
            index.search(torch.zeros(batch, index.width), 4, metric=Metric.COSINE)[1],
            torch.zeros(batch, 4),
        )


@given(
    n=st.integers(1, 5 * TILE),
    rows=st.integers(1, 3),
    k=st.integers(1, 6),
    cuts=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_the_best_of_tiles_are_the_best(n, rows, k, cuts, seed):
    scores = torch.randn(rows, 4 * n, generator=torch.Generator().manual_seed(seed))
    scores[:, ::3] = -torch.inf
    k = min(k, n)
    want = scores.topk(k, dim=1).values
    values, places = best_of(scores, k)
    assert torch.equal(values, want)
    assert torch.equal(scores.gather(1, places), want)
    step = -(-scores.shape[1] // cuts)
    chunks = [(at, scores[:, at : at + step]) for at in range(0, scores.shape[1], step)]
    values, places = best_of_chunks(chunks, k)
    assert torch.equal(values, want)
    assert torch.equal(scores.gather(1, places), want)


@pytest.mark.gpu
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_the_answers_are_those_of_the_cpu(dtype, metric):
    n = 70_000
    sides = helpers.make_sides(n, {"source": 24, "target": 40}, vocabulary=3000)
    index = WordIndex.build(*helpers.make_words(n), sides, IndexOptions(Kind.TOKENS, metric))
    gpu, cpu = index.to("cuda", dtype), index.to("cpu", dtype)
    queries = helpers.gradient_like(index, 33)
    mask = index.mask(exclude=range(0, n, 2))
    for allowed in (None, mask):
        ids, scores = gpu.search(queries.cuda(), 50, allowed)
        assert ids.is_cuda
        assert scores.is_cuda
        want_ids, want = cpu.search(queries, 50, allowed)
        torch.testing.assert_close(scores.cpu(), want, rtol=2e-3, atol=2e-3)
        same = (ids.cpu()[:, :, None] == want_ids[:, None, :]).any(2).float().mean()
        assert same > 0.97
