"""The encoder of plain texts in C++ gives what the tokenizer gives, or says that it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.ops import _native
from fuse_index.words.retokenize.plain_encoder import plain_encoder_of, probe_texts
from fuse_index.words.tokenizers.locality import GPT4_PATTERN, QWEN_PATTERN
from fuse_index.words.tokenizers.tokenization import WordTokenizer
from tests.words.strategies import ODD_WORDS
from tests.words.tokenizers_zoo import ZOO, make, wrapped

HAVE_ONE = ("gpt2", "gpt2-pad", "bert-uncased", "bert-cased", "clip", "open_clip")
native = pytest.mark.skipif(_native.module() is None, reason="the extension is not built")
plain_texts = st.text(
    st.sampled_from("aabcdefghijklmnorstuvABCZ0189'!?-_<|>.,&;#[]~"), min_size=1, max_size=14
).flatmap(lambda text: st.sampled_from([text, f" {text}"]))


def encoded(tokenizer: WordTokenizer, texts: list[str]) -> list[list[int] | None]:
    """Ids of every text, None where the encoder does not know it."""
    encoder = plain_encoder_of(tokenizer.backend)
    assert encoder is not None
    counts, ids = encoder.encode(texts)
    rows = np.split(ids, np.cumsum(np.maximum(counts, 0))[:-1])
    return [row.tolist() if n >= 0 else None for row, n in zip(rows, counts, strict=True)]


@native
@pytest.mark.parametrize("name", ZOO)
def test_which_tokenizers_have_one(name: str) -> None:
    assert (plain_encoder_of(wrapped(name).backend) is not None) == (name in HAVE_ONE)


@native
@pytest.mark.parametrize("name", HAVE_ONE)
@settings(max_examples=300)
@given(text=plain_texts)
def test_equals_the_tokenizer(name: str, text: str) -> None:
    tokenizer = wrapped(name)
    (row,) = encoded(tokenizer, [text])
    if row is not None:
        assert row == tokenizer.backend.encode_batch([text])[0]
    else:
        # an entity may begin, or CLIP's pattern find a special token
        assert (name == "open_clip" and "&" in text) or ("clip" in name and "<|" in text)


@native
@pytest.mark.parametrize("name", HAVE_ONE)
def test_odd_words_and_pieces_of_the_vocabulary(name: str) -> None:
    tokenizer = wrapped(name)
    texts = [
        *ODD_WORDS,
        *(f" {word}" for word in ODD_WORDS),
        *probe_texts(tokenizer.backend.tokens),
    ]
    texts += ["", " ", "  a", "a b", "a\tb", "\n", "x" * 128, "x" * 129, " 's", "''s", "9'll"]
    known = 0
    for text, row in zip(texts, encoded(tokenizer, texts), strict=True):
        if row is not None:
            known += 1
            assert row == tokenizer.backend.encode_batch([text])[0], repr(text)
    assert known > len(texts) / 2


@native
def test_the_real_tokenizers(gpt2_dir: str, minilm_dir: str) -> None:
    from transformers import AutoTokenizer

    for folder in (gpt2_dir, minilm_dir):
        tokenizer = WordTokenizer.from_tokenizer(AutoTokenizer.from_pretrained(folder))
        texts = probe_texts(tokenizer.backend.tokens)
        rows = encoded(tokenizer, texts)
        assert rows == tokenizer.backend.encode_batch(texts)


def splitting(pattern: str) -> dict[str, Any]:
    """A pre-tokenizer that splits by a pattern, as Llama 3's and Qwen's do."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [split | {"invert": False}, level | {"use_regex": False}]
    return {"type": "Sequence", "pretokenizers": steps}


def changed(change: Callable[[dict[str, Any]], None]) -> WordTokenizer:
    """GPT-2's tiny tokenizer with another definition."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    spec = json.loads(make("gpt2").backend_tokenizer.to_str())
    change(spec)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))
    return WordTokenizer.from_tokenizer(tokenizer)


@cache
def with_pattern(pattern: str, *, whole: bool) -> WordTokenizer:
    """GPT-2's tiny tokenizer that splits as another model's."""

    def change(spec: dict[str, Any]) -> None:
        spec["pre_tokenizer"] = splitting(pattern)
        spec["model"]["ignore_merges"] = whole

    return changed(change)


@native
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("pattern", [GPT4_PATTERN, QWEN_PATTERN])
@settings(max_examples=300)
@given(text=plain_texts)
def test_newer_patterns(pattern: str, whole: bool, text: str) -> None:
    tokenizer = with_pattern(pattern, whole=whole)
    assert encoded(tokenizer, [text]) == tokenizer.backend.encode_batch([text])


@native
@pytest.mark.parametrize("text", ["é", "a b", "a ", " ", "\t", "a\n", "x" * 129, "a\x7f", "中"])
def test_says_what_it_does_not_know(text: str) -> None:
    assert encoded(wrapped("gpt2"), ["a", text, "b"])[1] is None
    assert encoded(wrapped("gpt2"), ["a", text, "b"])[2] == wrapped("gpt2").encode_text("b")


def _with_prefix_space(spec: dict[str, Any]) -> None:
    spec["pre_tokenizer"]["add_prefix_space"] = True


def _with_byte_fallback(spec: dict[str, Any]) -> None:
    spec["model"]["byte_fallback"] = True


def _with_other_pattern(spec: dict[str, Any]) -> None:
    spec["pre_tokenizer"] = splitting(r"\p{L}+|\P{L}+")


def _with_other_normalizer(spec: dict[str, Any]) -> None:
    spec["normalizer"] = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}


def _with_added_token(spec: dict[str, Any]) -> None:
    token = dict(spec["added_tokens"][0] if spec["added_tokens"] else {})
    token |= {"id": 10**4, "content": "photo", "special": False, "normalized": False}
    token |= {"single_word": False, "lstrip": False, "rstrip": False}
    spec["added_tokens"].append(token)


@native
@pytest.mark.parametrize(
    "change",
    [
        _with_prefix_space,
        _with_byte_fallback,
        _with_other_pattern,
        _with_other_normalizer,
        _with_added_token,
    ],
)
def test_there_is_none_for_a_tokenizer_that_does_more(
    change: Callable[[dict[str, Any]], None],
) -> None:
    assert plain_encoder_of(changed(change).backend) is None


@native
def test_one_that_differs_from_its_definition_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    backend = WordTokenizer.from_tokenizer(make("gpt2")).backend
    encode = backend.encode_batch
    backend.encode_batch = lambda texts: [[*row, 0] for row in encode(texts)]  # type: ignore[method-assign]
    assert plain_encoder_of(backend) is None
    assert "not what its definition says" in caplog.text
