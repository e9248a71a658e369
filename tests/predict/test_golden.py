"""Runs, predictions and sample queries, against what the code before this package computed.

``golden/old.json`` holds values of the packaged models under equal options. Those of words by
layers are newer: states are taken in contexts of the model's vocabulary since.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuse_index.adapter import Adapter
from fuse_index.build import build_bundle
from fuse_index.build.queries import sample_queries
from fuse_index.demo import DemoModel, Split, corpus, model_name, write_corpus
from fuse_index.evaluate import FidelityOptions, measure_fidelity
from fuse_index.optimize import (
    GCG,
    PEZ,
    AutoDAN,
    Beam,
    Budget,
    Greedy,
    MethodOptions,
    Problem,
    RandomSearch,
    RunOptions,
    SearchOptions,
    TokenFilter,
    optimize,
)
from tests.demo_models import START

OLD = json.loads((Path(__file__).parent / "golden" / "old.json").read_text(encoding="utf-8"))
PUBLISHED: dict[str, Any] = {"draw": "uniform", "positions": 0, "memory": 0}
GREEDY, PAIR, THREE = Greedy(), Beam(width=2), Beam(width=3)

RUNS: dict[str, tuple[MethodOptions, SearchOptions]] = {
    "gcg": (GCG(predictor="adapter", search_width=32, top_k=32, **PUBLISHED), GREEDY),
    "gcg n_replace": (
        GCG(predictor="adapter", search_width=32, top_k=32, n_replace=2, **PUBLISHED),
        GREEDY,
    ),
    "gcg best learned": (GCG(predictor="adapter", search_width=24, positions=3, memory=16), PAIR),
    "words random": (RandomSearch(unit="word", search_width=16), GREEDY),
    "random l0": (RandomSearch(search_width=16), GREEDY),
    "random l2": (RandomSearch(search_width=16, norm="l2"), GREEDY),
    "autodan": (AutoDAN(length=12, search_width=16, iterations=3, temperature=0.0), PAIR),
    "autodan sweeps": (
        AutoDAN(length=9, search_width=16, iterations=2, sweeps=1, temperature=0.0),
        GREEDY,
    ),
    "pez": (PEZ(learning_rate=1.0, restarts=1), GREEDY),
}
for old, new in {
    "word": "embedding",
    "adapter": "adapter",
    "layers": "layers",
    "mixture": "mixture",
}.items():
    own: dict[str, Any] = {"unit": "word", "predictor": new}
    uniform = GCG(search_width=16, top_k=16, **own, **PUBLISHED)
    RUNS[f"words {old} uniform"] = uniform, GREEDY
    RUNS[f"words {old} best learned"] = GCG(search_width=12, positions=3, memory=16, **own), GREEDY
    RUNS[f"writer {old}"] = AutoDAN(length=6, search_width=12, **own), THREE
    if new != "layers":
        RUNS[f"soft {old}"] = PEZ(learning_rate=1.0, restarts=1, **own), GREEDY

ALONE = ("autodan", "pez", "soft")
"""Runs with the picture alone."""
WHOLE_WORDS = ("gcg", "random", "pez")
"""Runs over tokens that are words."""


@pytest.fixture(scope="module")
def problems(three_models: Problem) -> dict[tuple[bool, bool], Problem]:
    """(the picture alone, tokens that are words) -> the problem."""
    lm, terms = three_models.source, three_models.terms
    return {
        (alone, whole): Problem(
            lm, terms[1:2] if alone else terms, tokens=TokenFilter(words_only=whole)
        )
        for alone in (False, True)
        for whole in (False, True)
    }


def test_every_value_is_compared() -> None:
    assert set(RUNS) == set(OLD["runs"])


@pytest.mark.parametrize("name", RUNS)
def test_runs_take_the_same_course(problems: dict[tuple[bool, bool], Problem], name: str) -> None:
    old, kind = OLD["runs"][name], name.partition(" ")[0]
    method, search = RUNS[name]
    result = optimize(
        problems[kind in ALONE, kind in WHOLE_WORDS],
        [old["ids"][0]],
        method=method,
        search=search,
        budget=Budget(steps=len(old["ids"]) - 1),
        options=RunOptions(seed=3),
    )
    assert [list(point.ids) for point in result.trajectory] == old["ids"]
    assert [point.best for point in result.trajectory] == pytest.approx(old["best"], rel=1e-4)
    # these were written when a gradient counted as two forward passes
    assert result.spent["forward_passes"] - result.spent["gradients"] == old["passes"]


def test_the_first_prompts_are_those_texts(lm_problem: Problem) -> None:
    starts = {tuple(old["ids"][0]) for old in OLD["runs"].values()}
    assert starts == {lm_problem.encode(START), lm_problem.encode("a small")}


@pytest.fixture(scope="module")
def to_lm(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """From CLIP to the LM."""
    folder = tmp_path_factory.mktemp("to_lm")
    texts = write_corpus(folder / "corpus.txt", scenes=150)
    names = model_name(DemoModel.CLIP), model_name(DemoModel.LM)
    return Adapter.from_pretrained(build_bundle(*names, folder / "bundle", [texts]).path)


@pytest.mark.parametrize("loss", ["similarity", "label", "nll"])
def test_validate_measures_the_same(request: pytest.FixtureRequest, loss: str) -> None:
    names = {
        "similarity": ("clip_adapter", "lm", "clip"),
        "label": ("sentiment_adapter", "lm", "sentiment"),
        "nll": ("to_lm", "clip", "lm"),
    }[loss]
    adapter, source, model = (request.getfixturevalue(name) for name in names)
    report = measure_fidelity(
        adapter,
        adapter.bundle.table,
        source.table(),
        model,
        texts=[sentence.text for sentence in corpus(Split.TEST, 60)],
        options=FidelityOptions(
            loss=loss, samples=2, candidates=30, seed=1, anchors=3, layers=True
        ),
    )
    old = OLD["validate"][loss]
    assert {name: found.mean for name, found in report.spearman.items()} == pytest.approx(
        old["spearman"], abs=2e-3
    )
    sample = report.samples[0]
    assert sample.loss == pytest.approx(old["loss"], rel=1e-4)
    scale = np.abs(old["change"]).max()
    np.testing.assert_allclose(sample.change[:5], old["change"], rtol=1e-4, atol=1e-4 * scale)
    for name, values in old["predicted"].items():  # a constant does not count
        now, before = sample.predicted[name][:5], np.array(values)
        scale = np.abs(before - before[0]).max()
        np.testing.assert_allclose(now - now[0], before - before[0], rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("name", ["lm", "clip", "sentiment"])
def test_sample_queries_are_the_same(request: pytest.FixtureRequest, name: str) -> None:
    adapter = "sentiment_adapter" if name == "sentiment" else "clip_adapter"
    table = request.getfixturevalue(adapter).bundle.table
    tokens = table.source if name == "lm" else table.target
    queries = sample_queries(request.getfixturevalue(name), tokens, table.counts, samples=8)
    old = OLD["queries"][name]
    np.testing.assert_allclose(queries.norm(dim=1), old["norms"], rtol=1e-4)
    scale = np.abs(old["first"]).max()
    np.testing.assert_allclose(queries[:, :2], old["first"], rtol=1e-3, atol=1e-4 * scale)
