"""Every file of a word index, mutated by hypothesis, with all checksums made right again.

A mutation is refused in one line by a :class:`BundleError`, or it is harmless: then the words that
a search finds are words of the index, each once, and their scores are those of their vectors. The
1,000 mutations a file are marked slow.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fuse_index.bundle import Bundle, read_bundle, read_manifest, write_bundle
from fuse_index.index import (
    IndexOptions,
    Kind,
    Metric,
    WordIndex,
    add_index,
    read_index,
    verify_indexes,
)
from fuse_index.index.approximate import Approximate
from fuse_index.index.options import Representation
from fuse_index.index.projection import Projection
from fuse_index.index.vectors import WordVectors, sides_of
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable
from tests.bundle import mutations, sample
from tests.bundle.test_hostile import outcome, replaced, run
from tests.index import helpers

WORDS = 300
MUTATIONS = {
    "codes.json": mutations.of_json,
    "codes.faiss": mutations.of_bytes,
    "codes.safetensors": mutations.of_tensors,
    "plain.json": mutations.of_json,
    "plain.faiss": mutations.of_bytes,
    "flat.json": mutations.of_json,
    "tokens.json": mutations.of_json,
}


class Hostile:
    """A bundle with indexes of every kind: product codes, with and without maps, and exact ones."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        rows = [[int(i)] for i in rng.integers(9, size=WORDS)]
        two = [[int(a), int(b)] for a, b in rng.integers(12, size=(WORDS, 2))]
        words, counts = helpers.make_words(WORDS)
        table = WordTable(words, counts, Ragged.from_lists(two), Ragged.from_lists(rows))
        adapters = {"2x1": sample.ramp(2, 3, 2), "fallback": sample.ramp(1, 3, 2)}
        content = sample.contents(table=table, adapters=adapters, groups=None, quality={})
        write_bundle(folder, content)
        generator = torch.Generator().manual_seed(0)
        self.folder = folder
        self.source = torch.randn(12, 3, generator=generator)
        self.target = torch.randn(9, 2, generator=generator)
        sides = sides_of(table, source=self.source, target=self.target)
        vectors = WordVectors(sides, Representation.MEAN)
        maps = Projection.fit(vectors.matrix(), torch.randn(80, 5, generator=generator), 4, seed=0)
        for name, kind, projection in (
            ("codes", Kind.PQ, maps),
            ("plain", Kind.PQ, None),
            ("flat", Kind.FLAT, None),
            ("tokens", Kind.TOKENS, None),
        ):
            engine = None
            if kind is not Kind.TOKENS:
                metric = Metric.INNER_PRODUCT
                engine = Approximate.build(vectors, kind, metric, projection=projection)
                engine = replace(engine, candidates=100)
            index = WordIndex(words, counts, vectors, IndexOptions(kind), engine)
            if projection is None:
                index = index.add(["more"], {"source": [[1, 2]], "target": [[3]]}, [5])
            add_index(folder, index, name)
        self.bundle = read_bundle(folder)

    def read(self, name: str) -> WordIndex:
        """Read an index, with the words of the bundle as they were read before."""
        manifest = read_manifest(self.folder)
        old = self.bundle
        bundle = Bundle(self.folder, manifest, old._words, old._adapters, None)
        return read_index(bundle, name, source=self.source, target=self.target)

    def attack(self, file: str, data: bytes) -> str:
        """Refused in one line, or every search is right."""
        with replaced(self.folder, f"index/{file}", data):
            index, _ = outcome(lambda: self.read(file.partition(".")[0]))
            verified, _ = outcome(lambda: (verify_indexes(self.folder),))
        assert verified is not None or index is None
        if index is None:
            return "refused"
        check_search(index)
        return "harmless"


def check_search(index: WordIndex) -> None:
    """Search, and compare the scores of what is found with those of its vectors in float64."""
    queries = helpers.gradient_like(index, 3)
    everything = index.vector(torch.arange(len(index))).double().numpy()
    for metric in (index.options.metric, Metric.COSINE):
        ids, scores = index.search(queries, 20, metric=metric)
        assert 0 <= int(ids.min()) <= int(ids.max()) < len(index)
        truth = helpers.brute_scores(everything, queries.numpy(), metric)
        of_ids = np.take_along_axis(truth, ids.numpy(), 1)
        np.testing.assert_allclose(scores.numpy(), of_ids, rtol=1e-4, atol=1e-4)
        assert all(len(set(row)) == 20 for row in ids.tolist())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Hostile:
    return Hostile(tmp_path_factory.mktemp("hostile") / "bundle")


@pytest.mark.parametrize("file", MUTATIONS)
@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_refused_or_harmless(hostile, file, count):
    data = (hostile.folder / "index" / file).read_bytes()
    run(MUTATIONS[file], count, data, lambda mutated: hostile.attack(file, mutated))
