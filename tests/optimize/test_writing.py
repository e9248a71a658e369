"""Sentences of a language model: their beginnings, their ends, and the tokens they may have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fuse_index.demo import DemoModel, model_name, vocabulary
from fuse_index.errors import ModelError, OptionError
from fuse_index.models import load_model
from fuse_index.objectives import Fluency
from fuse_index.optimize.writing import write_sentences


@pytest.fixture(scope="module")
def lm():
    return load_model(model_name(DemoModel.LM), device="cpu", bos=True)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_sentences_end_begin_as_given_and_repeat(lm):
    start = tuple(lm.words.encode_running(["a red star"])[0].tolist())
    rows = [write_sentences(lm, [start] * 4 + [()] * 4, generator()) for _ in range(2)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 8
    ended = [row for row in rows[0] if row is not None]
    texts = [lm.words.decode(list(row)) for row in ended]
    begun = [lm.words.decode(list(row)) for row in rows[0][:4] if row is not None]
    assert len(begun) >= 3
    assert all(text.startswith(" a red star") for text in begun)
    assert all(lm.frame.head[0] not in row for row in ended)
    known = set(vocabulary())
    words = [word for text in texts for word in text.split()]
    assert sum(word in known for word in words) > 0.9 * len(words)


def test_sentences_follow_a_prefix(lm):
    prefix = "i like the"
    after = write_sentences(lm, [()] * 12, generator(), prefix=prefix)
    alone = write_sentences(lm, [()] * 12, generator())
    loss = Fluency(prefix=prefix).prepare(lm)
    means = [loss.score([row for row in rows if row]).mean() for rows in (after, alone)]
    assert means[0] < means[1]


def test_only_allowed_tokens_are_written(lm):
    allowed = torch.zeros(lm.vocabulary_size, dtype=torch.bool)
    kept = [int(i) for text in ("a red star", "the ring") for i in lm.words.encode_text(f" {text}")]
    allowed[kept] = True
    rows = write_sentences(lm, [()] * 8, generator(), allowed=allowed, longest=200)
    written = [row for row in rows if row is not None]
    assert written
    assert {token for row in written for token in row} <= set(kept)


def test_where_no_sentence_ends_all_are_cut(lm):
    rows = write_sentences(lm, [()] * 2, generator(), longest=2)
    assert [len(row) for row in rows if row is not None] == [2, 2]


def test_no_beginning_or_temperature_is_refused(lm):
    for starts, temperature in (([], 1.0), ([()], 0.0)):
        with pytest.raises(OptionError, match="sentences at temperature"):
            write_sentences(lm, starts, generator(), temperature=temperature)


def test_a_model_that_ends_no_text_is_refused(lm, monkeypatch):
    monkeypatch.setattr(lm, "tokenizer", SimpleNamespace(eos_token_id=None))
    monkeypatch.setattr(lm, "frame", SimpleNamespace(head=()))
    with pytest.raises(ModelError, match=r"without a token before or behind.*bos=True"):
        write_sentences(lm, [()], generator())
