"""Tokenizers for text that goes on from other text."""

from __future__ import annotations

import random

import numpy as np
import pytest

from fuse_index.errors import ModelError
from fuse_index.words.retokenize.retokenizer import Retokenizer, RetokenizerOptions
from fuse_index.words.tokenizers.continued import continuing, decodes_alike, view
from fuse_index.words.tokenizers.specials import special_encoder
from tests.words.tokenizers_zoo import ZOO, wrapped

TEXTS = [" dogs run", " the old woman paints!", " in 1984", " café", "; she said", ", some"]


@pytest.mark.parametrize("name", ZOO)
def test_a_whole_text_has_the_tokens_of_its_parts(name: str) -> None:
    words = wrapped(name)
    for first in ("a brown dog", "she said"):
        head = words.encode_text(first)
        for text in TEXTS:
            if words.encode_text(first + text)[: len(head)] == head:
                whole = words.encode_text(first + text)
                assert continuing(words).encode_text(text) == whole[len(head) :], text


@pytest.mark.parametrize("name", ZOO)
def test_decoding_behind_text_keeps_the_space_of_the_first_token(name: str) -> None:
    words, behind = wrapped(name), view(wrapped(name), continued=True)
    ids = words.encode_running(["dogs run"])[0].tolist()
    assert behind.decode(ids).strip() == "dogs run"
    if not name.startswith("open_clip"):
        assert behind.decode(ids) == " dogs run"
    assert (behind is words) == decodes_alike(words)
    assert view(words) is words
    assert view(behind, drop=" ").decode(ids) == behind.decode(ids).removeprefix(" ")
    assert view(behind, add="x ").decode(ids) == "x " + behind.decode(ids)


@pytest.mark.parametrize("target", ["gpt2", "llama", "llama-legacy", "t5", "bert-cased", "clip"])
@pytest.mark.parametrize("source", ["gpt2", "llama", "bert-cased", "clip"])
@pytest.mark.parametrize("native", [True, False])
def test_rows_are_retokenized_behind_text(source: str, target: str, native: bool) -> None:
    texts, reader = wrapped(source), continuing(wrapped(target))
    generator = random.Random(3)
    known = [i for i, token in enumerate(texts.backend.tokens) if token is not None]
    rows = [texts.encode_running([text.strip()])[0].tolist() for text in TEXTS[:4]]
    rows += [generator.choices(known, k=5) for _ in range(60)]
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = values
    for options in ({"continued": True}, {"continued": True, "drop": " "}, {"add": " "}):
        shown = view(texts, **options)
        found = Retokenizer(shown, reader, options=RetokenizerOptions(native=native))
        expected = reader.encode_texts(shown.decode_batch(rows)).to_lists()
        assert found.retokenize(ids, lengths).target.to_lists() == expected


def test_special_tokens_in_texts() -> None:
    words = wrapped("llama")
    end = words.backend.tokens.index("</s>")
    assert special_encoder(words.backend, "m")(["a dog</s>"])[0][-1] == end
    assert end not in words.encode_text("a dog</s>")
    with pytest.raises(ModelError, match="m: special tokens in the text around a prompt; expected"):
        special_encoder(wrapped("open_clip").backend, "m")
