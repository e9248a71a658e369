"""Bundles built of models in memory: those of their names, checked and used the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from fuse_index import wrap_model
from fuse_index.adapter import Adapter
from fuse_index.build import BuildOptions, build_bundle
from fuse_index.demo import DemoModel, model_name, write_corpus
from fuse_index.errors import IdentityError
from fuse_index.evaluate import FidelityOptions, measure_fidelity
from fuse_index.index import IndexOptions
from fuse_index.models import Model
from fuse_index.objectives import ClassifierLabel
from fuse_index.objectives.target_loss import TargetLoss
from fuse_index.optimize import GCG, Budget, Problem, Term, optimize


def wrapped(model: DemoModel, auto: Any) -> Model:
    folder = model_name(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return wrap_model(auto.from_pretrained(folder), tokenizer)


def test_build_optimize_and_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapters are those of the names; an index is tuned on the models that are there."""
    corpus = write_corpus(tmp_path / "corpus.txt", scenes=40)
    lm = wrapped(DemoModel.LM, transformers.AutoModelForCausalLM)
    judge = wrapped(DemoModel.SENTIMENT, transformers.AutoModelForSequenceClassification)
    names = model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)
    other = build_bundle(*names, tmp_path / "named", [corpus]).path
    monkeypatch.setattr("fuse_index.build.indexing.load_model", loaded_again)
    options = BuildOptions(index=IndexOptions())
    path = build_bundle(lm, judge, tmp_path / "wrapped", [corpus], options=options).path
    for file in ("words.safetensors", "groups.safetensors", "adapter.safetensors"):
        assert (path / file).read_bytes() == (other / file).read_bytes()
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


def loaded_again(*_: Any, **__: Any) -> None:
    raise AssertionError("the model is loaded again")
