"""Sentences that a language model writes to their end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fuse_index.demo import vocabulary
from fuse_index.errors import ModelError, OptionError
from fuse_index.models import load_model
from fuse_index.optimize.writing import _draw, write_sentences
from tests.models import factory


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """GPT-2 begins a text with nothing, and ends it with a token."""
    return load_model(
        str(factory.save_model("gpt2", tmp_path_factory.mktemp("gpt2"))), device="cpu"
    )


def test_sentences_end_begin_as_asked_and_repeat(lm):
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
    assert rows[0] != write_sentences(lm, [start] * 4 + [()] * 4, generator(4))


def likeliest_end(lm, prefix: str, row: tuple[int, ...]) -> list[int]:
    """Tokens that a model finds likeliest behind every beginning of a sentence."""
    before = [*lm.frame.head, *(lm.words.encode_text(prefix) if prefix else ())]
    with torch.no_grad():
        logits = lm.module(input_ids=torch.tensor([[*before, *row]])).logits[0]
    return logits[len(before) - 1 :].argmax(dim=-1).tolist()


@pytest.mark.parametrize("prefix", ["", "here is a sentence."])
def test_at_a_low_temperature_they_are_the_likeliest_behind_the_prefix(lm, prefix):
    (row,) = write_sentences(lm, [()], generator(), prefix=prefix, temperature=1e-4)
    assert row is not None
    found = likeliest_end(lm, prefix, row)
    assert found[:-1] == list(row)
    end = getattr(lm.tokenizer, "eos_token_id", None)
    assert found[-1] == (lm.frame.head[-1] if end is None else end)


def test_only_tokens_that_may_be_used_are_written(lm, lm_problem):
    allowed = torch.from_numpy(lm_problem.allowed)
    rows = write_sentences(lm, [()] * 8, generator(), allowed=allowed)
    ended = [row for row in rows if row is not None]
    assert ended
    assert all(bool(allowed[list(row)].all()) for row in ended)


def test_sentences_without_an_end_are_given_up(lm):
    rows = write_sentences(lm, [()] * 12, generator(), longest=14)
    assert 0 < rows.count(None) < 12
    assert all(row is None or len(row) < 14 for row in rows)


def test_a_model_without_a_token_before_the_text_writes_behind_the_one_that_ends_it(gpt2):
    assert not gpt2.frame.head
    end = gpt2.tokenizer.eos_token_id
    start = tuple(gpt2.words.encode_text("a brown dog"))
    (row,) = write_sentences(gpt2, [start], generator(), temperature=1e-4, longest=12)
    with torch.no_grad():
        ids = torch.tensor([[end, *row]])
        found = gpt2.module(input_ids=ids).logits[0].argmax(dim=-1).tolist()
    assert row[: len(start)] == start
    assert found[len(start) : len(row)] == list(row[len(start) :])


def test_a_model_that_ends_no_sentence_is_cut(gpt2, monkeypatch):
    """Where none of the sentences ends, all are kept as far as they came."""
    allowed = torch.ones(gpt2.vocabulary_size, dtype=torch.bool)
    monkeypatch.setattr(
        "fuse_index.optimize.writing._draw",
        lambda logits, *_: torch.full((len(logits),), 7),
    )
    rows = write_sentences(gpt2, [(), (5,)], generator(), allowed=allowed, longest=4)
    assert rows == [(7, 7, 7, 7), (5, 7, 7, 7)]


def test_a_model_that_neither_begins_nor_ends_a_text_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", SimpleNamespace(eos_token_id=None))
    with pytest.raises(ModelError, match=r"without a token before or behind .* with bos=True"):
        write_sentences(gpt2, [()], generator())


def test_no_beginning_or_temperature_is_refused(lm):
    for starts, temperature in (([], 1.0), ([()], 0.0)):
        with pytest.raises(OptionError, match="sentences at temperature"):
            write_sentences(lm, starts, generator(), temperature=temperature)


def test_leaving_out_what_has_ended_changes_no_sentence(lm, monkeypatch):
    ran = []
    inner = lm.module.forward

    def counting(*args, **kwargs):
        ran.append(len(kwargs["inputs_embeds"]))
        return inner(*args, **kwargs)

    monkeypatch.setattr(lm.module, "forward", counting)
    found = write_sentences(lm, [()] * 40, generator())
    fewer, ran[:] = sum(ran), []
    monkeypatch.setitem(vars(lm), "caches", False)
    assert write_sentences(lm, [()] * 40, generator()) == found
    assert fewer < 0.8 * sum(ran)


def test_draws_are_those_of_multinomial():
    logits = torch.randn(50, 30, generator=generator(1))
    rows = torch.arange(50)
    expected = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator())[:, 0]
    assert torch.equal(_draw(logits, generator(), rows, 50), expected)
    some = rows[10:20]
    assert torch.equal(_draw(logits[some], generator(), some, 50), expected[some])
