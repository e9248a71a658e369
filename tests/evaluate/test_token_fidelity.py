"""Fidelity of moves of single tokens, on the packaged models."""

from __future__ import annotations

import numpy as np
import pytest

from fuse_index.demo import Split, corpus
from fuse_index.errors import CorpusError, OptionError
from fuse_index.evaluate import FidelityOptions, FidelityReport, measure_token_fidelity
from fuse_index.objectives.target_loss import TargetLoss

TEXTS = [sentence.text for sentence in corpus(Split.TEST, 40)]


def measure(adapter, lm, model, texts=TEXTS, stage=None, **options) -> FidelityReport:
    chosen = {"loss": TargetLoss.LABEL, "samples": 6, "candidates": 30, "label": "positive"}
    options = FidelityOptions(**chosen | options)
    return measure_token_fidelity(adapter, lm, model, texts=texts, options=options, stage=stage)


def test_own_tokens_predict_better_than_the_adapter(sentiment_adapter, lm, sentiment):
    seen: list[tuple[int, int]] = []
    report = measure(
        sentiment_adapter, lm, sentiment, layers=True, stage=lambda *own: seen.append(own)
    )
    found = {name: estimate.mean for name, estimate in report.spearman.items()}
    names = [f"{kind}_at_current" for kind in ("adapter", "embedding", "layers")]
    assert list(found) == [*names, "random"]
    assert seen[-1][0] == seen[-1][1] > 0
    assert found["layers_at_current"] > found["adapter_at_current"]
    again = measure(sentiment_adapter, lm, sentiment)
    assert again.spearman["embedding_at_current"] == report.spearman["embedding_at_current"]


def test_true_changes_are_those_of_the_changed_text(sentiment_adapter, lm, sentiment):
    report = measure(sentiment_adapter, lm, sentiment, samples=2, candidates=5)
    index = sentiment.labels.index("positive")
    for sample in report.samples:
        task = sample.task
        assert task.row not in task.candidates
        for token, change in zip(task.candidates.tolist(), sample.change, strict=True):
            ids = task.tokens.values.copy()
            ids[task.position] = token
            text = lm.words.decode(ids.tolist())
            assert lm.words.encode_text(text) == ids.tolist()
            log_probs = sentiment.encode_texts([text]).logits.double().log_softmax(-1)
            assert -float(log_probs[0, index]) - sample.loss == pytest.approx(change, abs=2e-5)


def test_what_cannot_be_measured_is_refused(sentiment_adapter, lm, sentiment):
    with pytest.raises(OptionError, match="anchors=2 for tokens; expected 0"):
        measure(sentiment_adapter, lm, sentiment, anchors=2)
    with pytest.raises(CorpusError, match=r"0 of 2 texts can be measured; expected at least 6"):
        measure(sentiment_adapter, lm, sentiment, texts=["one", " "])
    long = "circle " * (sentiment.positions or np.inf)
    with pytest.raises(CorpusError, match="0 of 1 texts"):
        measure(sentiment_adapter, lm, sentiment, texts=[long])
