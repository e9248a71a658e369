"""Fewer dimensions: nothing is lost where nothing is cut, or where queries never look."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from fuse_index.bundle import read_bundle, write_bundle
from fuse_index.errors import BundleError
from fuse_index.index import (
    IndexOptions,
    Kind,
    Metric,
    Representation,
    WordIndex,
    WordVectors,
    add_index,
    read_index,
    sides_of,
)
from fuse_index.index.approximate import Approximate
from fuse_index.index.projection import Projection
from fuse_index.index.tuning import keep_vectors, variants
from tests.bundle import sample
from tests.index import helpers
from tests.index.test_files import make_table


def test_all_dimensions_keep_every_product():
    rows, queries = torch.randn(500, 12), torch.randn(40, 12) * torch.arange(1.0, 13.0)
    projection = Projection.fit(rows, queries, 12, seed=0)
    got = (queries @ projection.queries) @ (rows @ projection.words).t()
    torch.testing.assert_close(got, queries @ rows.t(), rtol=1e-4, atol=1e-3)


def test_directions_that_queries_do_not_take_go_first():
    """Queries in 4 of 40 dimensions: 6 kept ones lose far less than the 6 of the words alone."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2000, 40, generator=generator)
    queries = torch.randn(200, 4, generator=generator) @ torch.randn(4, 40, generator=generator)
    projection = Projection.fit(rows, queries[:100], 6, seed=0)
    exact = queries[100:] @ rows.t()
    lost = (queries[100:] @ projection.queries) @ (rows @ projection.words).t() - exact
    assert lost.norm() < 0.05 * exact.norm()
    directions = torch.linalg.svd(rows, full_matrices=False)[2][:6]
    principal = (queries[100:] @ directions.t()) @ (rows @ directions.t()).t() - exact
    assert principal.norm() > 0.5 * exact.norm()


def test_what_is_tried():
    auto = IndexOptions()
    assert variants(100, 768, auto) == ((Kind.FLAT, 0), (Kind.TOKENS, 0))
    assert variants(5000, 768, auto)[-1] == (Kind.PQ, 0)
    many = variants(100_000, 200, auto)
    assert many[2:] == ((Kind.PQ, 0), (Kind.PQ, 128))
    assert variants(100_000, 768, auto)[2:] == ((Kind.PQ, 0), (Kind.PQ, 128), (Kind.PQ, 256))
    assert variants(100_000, 200, auto, measured=False) == many[:3]
    l2 = IndexOptions(metric=Metric.L2)
    assert variants(100_000, 200, l2) == many[:3]
    assert variants(5000, 200, IndexOptions(Kind.PQ)) == ((Kind.PQ, 0), (Kind.PQ, 128))
    assert variants(5000, 20, IndexOptions(Kind.TOKENS)) == ((Kind.TOKENS, 0),)


@pytest.fixture
def stored(tmp_path):
    table, source, target = make_table()
    adapters = {"2x1": sample.ramp(2, 3, 2), "fallback": sample.ramp(1, 3, 2)}
    write_bundle(
        tmp_path / "bundle",
        sample.contents(table=table, adapters=adapters, groups=None, quality={}),
    )
    sides = sides_of(table, source=source, target=target)
    vectors = WordVectors(sides, Representation.MEAN)
    projection = Projection.fit(vectors.matrix(), torch.randn(80, 5), 4, seed=0)
    engine = replace(
        Approximate.build(vectors, Kind.PQ, Metric.INNER_PRODUCT, projection=projection),
        candidates=400,
    )
    index = WordIndex(table.words, table.counts, vectors, IndexOptions(Kind.PQ), engine)
    return tmp_path / "bundle", index, source, target


def test_a_reduced_index_answers_exactly_scored_and_comes_back(stored):
    bundle, index, source, target = stored
    manifest = add_index(bundle, index, "joint")
    assert "index/joint.safetensors" in manifest.files
    again = read_index(read_bundle(bundle), "joint", source=source, target=target)
    queries = helpers.gradient_like(index, 6)
    for got, want in zip(again.search(queries, 20), index.search(queries, 20), strict=True):
        assert torch.equal(got, want)
    ids, scores = index.search(queries, 20)
    exact = torch.einsum("bd,bkd->bk", queries, index.vector(ids).view(6, 20, -1))
    torch.testing.assert_close(scores, exact, rtol=1e-4, atol=1e-4)
    truth = (queries @ index.vectors.matrix().t()).topk(20, dim=1).values
    assert (scores >= truth[:, -1:] - 1e-5).float().mean() > 0.8


def test_maps_that_do_not_fit_are_refused(stored):
    bundle, index, source, target = stored
    add_index(bundle, index, "joint")
    from safetensors.torch import save

    path = bundle / "index" / "joint.safetensors"
    path.write_bytes(save({"words": torch.zeros(5, 4), "queries": torch.zeros(6, 4)}))
    sample.reseal(bundle)
    with pytest.raises(BundleError, match=r"joint\.json: maps of shapes .* both \(5, r\)"):
        read_index(read_bundle(bundle), "joint", source=source, target=target)
    path.write_bytes(b"rubbish " * 20)
    sample.reseal(bundle)
    with pytest.raises(BundleError, match=r"joint\.json: its maps cannot be read"):
        read_index(read_bundle(bundle), "joint", source=source, target=target)
    text = json.loads((bundle / "index" / "joint.json").read_text())
    del text["engine"]["reduction"]
    (bundle / "index" / "joint.json").write_text(json.dumps(text))
    sample.reseal(bundle)
    with pytest.raises(BundleError, match=r"is damaged \(engine lacks \['reduction'\]\)"):
        read_index(read_bundle(bundle), "joint", source=source, target=target)


def test_vectors_are_kept_as_far_as_the_memory_allows():
    sides = helpers.make_sides(1200, {"target": 32}, vocabulary=400)
    exact = 4 * 1200 * 32
    for memory, kept, tables in ((9.0, True, True), (1.3, True, False), (0.9, False, True)):
        vectors = WordVectors(sides, Representation.MEAN)
        before = vectors.bytes
        keep_vectors(vectors, exact // 16, memory)
        assert (vectors.kept is not None, vectors.has_tables) == (kept, tables)
        assert vectors.bytes + exact // 16 <= memory * exact
        assert (vectors.bytes > before) is kept


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("metric", list(Metric))
def test_kept_vectors_answer_alike(metric, tables):
    sides = helpers.make_sides(1200, {"source": 6, "target": 8}, vocabulary=300)
    words = helpers.make_words(1200)
    made, kept = (WordVectors(sides, Representation.MEAN) for _ in range(2))
    kept.keep(tables)
    engine = replace(Approximate.build(made, Kind.PQ, metric), candidates=300)
    options = IndexOptions(Kind.PQ, metric)
    first = WordIndex(*words, made, options, engine)
    second = WordIndex(*words, kept, options, engine)
    for batch in (1, 9):
        queries = helpers.gradient_like(first, batch)
        for asked in Metric:
            want, got = (one.search(queries, 15, metric=asked) for one in (first, second))
            torch.testing.assert_close(got[1], want[1], rtol=1e-4, atol=1e-4)
    more = second.add(["neologism"], {"source": [[1]], "target": [[2]]})
    assert more.vectors.has_tables is tables
    torch.testing.assert_close(
        more.vectors.kept[-1], torch.cat([sides[0].table[1], sides[1].table[2]])
    )
