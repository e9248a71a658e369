"""Bundles built of models in memory: those of their names, checked and used the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from fuse_index import wrap_model
from fuse_index.adapter import Adapter
from fuse_index.build import build_bundle, indexing
from fuse_index.demo import DemoModel, model_name, write_corpus
from fuse_index.errors import IdentityError
from fuse_index.evaluate import FidelityOptions, measure_fidelity
from fuse_index.index import IndexOptions
from fuse_index.models import Model, load_embeddings
from fuse_index.objectives import ClassifierLabel
from fuse_index.objectives.target_loss import TargetLoss
from fuse_index.optimize import GCG, Budget, Problem, Term, optimize
from fuse_index.words.corpus.words import count_words
from fuse_index.words.table import build_word_table


def wrapped(model: DemoModel, auto: Any) -> Model:
    folder = model_name(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return wrap_model(auto.from_pretrained(folder), tokenizer)


def test_build_optimize_and_validate(tmp_path: Path) -> None:
    """The bundle is that of the names, byte for byte, and it is checked and used the same."""
    corpus = write_corpus(tmp_path / "corpus.txt", scenes=40)
    lm = wrapped(DemoModel.LM, transformers.AutoModelForCausalLM)
    judge = wrapped(DemoModel.SENTIMENT, transformers.AutoModelForSequenceClassification)
    names = model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)
    other = build_bundle(*names, tmp_path / "named", [corpus]).path
    path = build_bundle(lm, judge, tmp_path / "wrapped", [corpus]).path
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        file.name: file.read_bytes() for file in other.iterdir()
    }
    adapter = Adapter.from_pretrained(path, lm.identity(), judge.identity())
    assert adapter.bundle is not None
    report = measure_fidelity(
        adapter,
        adapter.bundle.table,
        lm.table(),
        judge,
        texts=corpus.read_text().splitlines(),
        options=FidelityOptions(loss=TargetLoss.LABEL, samples=3, candidates=10, among=(10,)),
    )
    assert len(report.samples) == 3
    found = optimize(
        Problem(lm, [Term(ClassifierLabel(label="positive"), judge, adapter)]),
        [lm.words.encode_text("the picture contains a small circle")],
        method=GCG(search_width=8),
        budget=Budget(steps=2),
    )
    assert found.total < found.trajectory[0].total
    with pytest.raises(IdentityError, match="the target model is"):
        Adapter.from_pretrained(path, lm.identity(), lm.identity())


def test_an_index_is_tuned_on_the_models_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tuned(Exception):  # noqa: N818
        pass

    def tune(*args: Any) -> None:
        raise Tuned(args[2])

    monkeypatch.setattr(indexing, "gradient_queries", tune)
    lm = wrapped(DemoModel.LM, transformers.AutoModelForCausalLM)
    words = count_words([write_corpus(tmp_path / "corpus.txt", scenes=5)])
    table, _ = build_word_table(words, lm.words, lm.words)
    with pytest.raises(Tuned) as caught:
        indexing.make_index(table, {"source": load_embeddings(lm)}, IndexOptions())
    assert caught.value.args[0] == [lm]
