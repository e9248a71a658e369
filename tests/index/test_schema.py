"""The JSON of a word index, and the layout of its FAISS file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fuse_index.errors import BundleError, ShapeError
from fuse_index.index import Metric, Side, WordIndex
from fuse_index.index.approximate import Approximate
from fuse_index.index.faissfile import CodesLayout
from fuse_index.index.options import IndexOptions, Kind, Representation
from fuse_index.index.vectors import WordVectors
from fuse_index.words.ragged import Ragged
from tests.bundle.test_hostile import replaced
from tests.index import helpers
from tests.index.test_hostile import Hostile


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Hostile:
    return Hostile(tmp_path_factory.mktemp("schema") / "bundle")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["weights"], None, r"damaged \(lacks \['weights'\]\)"),
        (["models"], 7, r"models has the wrong type\); expected a list"),
        (["weights"], ["a", "b"], r"weights\[0\] is 'a'\); expected a number"),
        (["added", "counts"], {}, r"added\['counts'\] has the wrong type\); expected a list"),
        (["added", "tokens", "source"], [[1, "x"]], r"\['tokens'\]\['source'\]\[0\]\[1\] is 'x'"),
        (["engine", "effort"], None, r"engine lacks \['effort'\]"),
        (["options", "top_k"], "many", r"top_k"),
        (["report"], [], r"report has the wrong type\); expected an object"),
        (["models"], ["target", "source"], r"models are \['target', 'source'\]\); expected the"),
        (["added", "words"], ["a", "b"], r"added lists of lengths \[1, 2\]\); expected one length"),
    ],
)
def test_json_of_an_index_with_a_field_missing_or_of_another_type(hostile, path, value, message):
    content = json.loads((hostile.folder / "index" / "plain.json").read_text())
    *above, last = path
    place = content
    for key in above:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    refused = pytest.raises(BundleError, match=message)
    with replaced(hostile.folder, "index/plain.json", json.dumps(content).encode()), refused:
        hostile.read("plain")


@pytest.mark.parametrize("metric", [*Metric])
@pytest.mark.parametrize(("width", "parts"), [(4, 2), (5, 5)])
@pytest.mark.parametrize("words", [64, 65])
def test_the_layout_is_what_faiss_writes(metric, width, parts, words):
    sides = helpers.make_sides(words, {"target": width})
    vectors = WordVectors(sides, Representation.MEAN)
    data = Approximate.build(vectors, Kind.PQ, metric).serialize()
    layout = CodesLayout(width, parts, words, metric)
    layout.check(data)
    header = data.size - 8 * words - 8 - (-(-words // 32) * 32 * ((parts + 1) // 2))
    free = 4 * width + 4 * 16 * width  # the bytes of the centroids
    refused = 0
    for at in range(header):
        spoiled = data.copy()
        spoiled[at] ^= 0x41
        try:
            layout.check(spoiled)
        except ValueError:
            refused += 1
    assert header - free <= refused < header
    for wrong in (data[:-1], np.append(data, np.uint8(0)), data[:10], data[:0]):
        with pytest.raises(ValueError, match="bytes, expected"):
            layout.check(wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 1e20])
def test_embeddings_that_are_not_finite_in_float32(value):
    table = torch.ones(3, 2, dtype=torch.float64)
    table[2, 0] = value
    words, counts = helpers.make_words(2)
    unused = Side("target", Ragged.from_lists([[0], [1]]), table)
    WordIndex.build(words, counts, [unused], IndexOptions(Kind.TOKENS))
    used = Side("target", Ragged.from_lists([[0], [1, 2]]), table)
    with pytest.raises(ShapeError, match=r"embeddings of the target up to .*; expected finite"):
        WordIndex.build(words, counts, [used], IndexOptions(Kind.TOKENS))
