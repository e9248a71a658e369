"""Added and special tokens in every kind of tokenizer: loaded always, and read as written."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from fuse_index.words.tokenizers.decoding import decode_plan
from fuse_index.words.tokenizers.fast_backend import OWN
from fuse_index.words.tokenizers.tokenization import WordTokenizer
from fuse_index.words.tokenizers.vocabulary import is_character, sample_ids, spread
from tests.words.families import KINDS, tokenizer_of
from tests.words.tokenizers_zoo import ZOO

ALL = (*KINDS, "clip")
CONTENTS = (
    *("COVID-19", "covid", "IL-6", "<think>", "</think>", "[INST]", "<|user|>", "new york", "dog"),
    *("naïve", "İstanbul", "中文", "😀", "e\u0301", "  ", "_x_", "##s", "▁dog", "Ġ", "ß", "ﬁ"),
)
TEXTS = (*CONTENTS, "a", "dog", "runs", "DOG", "New York", "Covid", "covid-19x", ",", " ", "50%")
everyone = pytest.mark.parametrize("kind", ALL)
tokens = st.builds(
    AddedToken,
    st.sampled_from(CONTENTS),
    single_word=st.booleans(),
    lstrip=st.booleans(),
    rstrip=st.booleans(),
    normalized=st.booleans(),
)
texts = st.lists(st.sampled_from(TEXTS), max_size=5).map("".join) | st.lists(
    st.sampled_from(TEXTS), max_size=5
).map(" ".join)


def with_added(kind: str, added: list[AddedToken]) -> Any:
    tokenizer = tokenizer_of(kind)
    tokenizer.add_tokens(added)
    return tokenizer


@everyone
@settings(max_examples=8)
@given(added=st.lists(tokens, min_size=1, max_size=4), text=texts, data=st.data())
def test_added_tokens_are_encoded_and_decoded_as_by_their_tokenizer(kind, added, text, data):
    own = with_added(kind, added)
    words = WordTokenizer.from_tokenizer(own)
    ids = own(text, add_special_tokens=False)["input_ids"]
    assert words.encode_text(text) == ids
    assert words.decode(ids) == own.decode(ids)
    known = [i for i in range(words.vocab_size) if words.token(i) is not None]
    picked = st.sampled_from([*known, *sorted(words.backend.added_ids) * 8])
    row = data.draw(st.lists(picked, max_size=8))
    assert words.decode(row) == own.decode(row)
    assert words.backend.finish != OWN
    plan = decode_plan(words.backend)
    found = plan and plan.decode(row)
    assert not found or found[0] == own.decode(row)
    inside = {own.convert_tokens_to_ids(token.content) for token in added}
    assert words.backend.added_ids == inside & set(own.added_tokens_decoder)


@pytest.mark.parametrize(
    "name", [name for name in ZOO if name.startswith("slow") or name == "byt5"]
)
def test_added_tokens_of_tokenizers_in_python(name):
    own = ZOO[name]()
    flags = ({}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": False})
    contents = ("COVID-19", "<think>", "zebra", "xylo", "Quux")
    own.add_tokens([AddedToken(c, **f) for c, f in zip(contents, flags, strict=True)])
    words = WordTokenizer.from_tokenizer(own)
    assert len(words.backend.added_ids) == len(contents)
    for text in ("a COVID-19 dog", "a <think> dog", "zebras zebra s", "xylox xylo x", "Quuxquux"):
        assert words.encode_text(text) == own(text, add_special_tokens=False)["input_ids"], text


def test_three_hundred_words_of_a_domain_in_an_uncased_tokenizer():
    own = with_added("wordpiece-uncased", [AddedToken(f"IL-{i}") for i in range(300)])
    words = WordTokenizer.from_tokenizer(own)
    ids = words.encode_text("the IL-7 and il-299 of a dog")
    assert len(words.backend.added_ids & set(ids)) == 2
    assert words.decode(ids) == own.decode(ids)
    assert decode_plan(words.backend) is not None


def test_another_way_to_decode_is_the_tokenizers_own():
    """A decode that is none of the known ways is asked itself, not refused."""
    own = tokenizer_of("byte-level")
    kind = type(own)
    own.__class__ = type(
        kind.__name__, (kind,), {"decode": lambda self, ids, **_: kind.decode(self, ids).upper()}
    )
    words = WordTokenizer.from_tokenizer(own)
    assert words.backend.finish == OWN
    assert words.decode(words.encode_text("a dog")) == "A DOG"
    assert words.decode([]) == ""
    assert decode_plan(words.backend) is None


CHARACTERS = "!%#.,0_'\"-&"


@cache
def plain(kind: str) -> WordTokenizer:
    return WordTokenizer.from_tokenizer(tokenizer_of(kind))


@everyone
@settings(max_examples=8)
@given(
    pad=st.sampled_from(CHARACTERS),
    text=st.text(st.sampled_from(f"{CHARACTERS} adogz5"), max_size=12),
)
def test_a_special_token_that_is_a_character_is_text(kind, pad, text):
    own = tokenizer_of(kind)
    assume(pad in own.get_vocab())
    words = WordTokenizer.from_tokenizer(tokenizer_of(kind, pad_token=pad))
    ids = words.encode_text(text)
    assert ids == plain(kind).encode_text(text)
    assert words.decode(ids) == plain(kind).decode(ids)
    assert own.convert_tokens_to_ids(pad) not in words.special_ids
    assert words.special_ids == plain(kind).special_ids


@everyone
@pytest.mark.parametrize("role", ["pad_token", "bos_token", "eos_token", "mask_token"])
def test_mark_up_stays_out_of_every_text(kind, role):
    tokenizer = tokenizer_of(kind, **{role: "<mark>"})
    words = WordTokenizer.from_tokenizer(tokenizer)
    id_ = tokenizer.convert_tokens_to_ids("<mark>")
    assert id_ in words.special_ids
    for text in ("<mark>", "a <mark> dog", "a<mark>dog"):
        assert id_ not in words.encode_text(text)


def test_a_word_that_pads_is_text_where_nothing_else_spells_it():
    own = tokenizer_of("word-level", pad_token="dog")
    id_ = own.convert_tokens_to_ids("dog")
    words = WordTokenizer.from_tokenizer(own)
    assert words.encode_text("brown dog")[1] == id_
    assert id_ not in words.special_ids
    id_ = tokenizer_of("byte-level").convert_tokens_to_ids("he")
    assert (
        id_ in WordTokenizer.from_tokenizer(tokenizer_of("byte-level", pad_token="he")).special_ids
    )
    marks = WordTokenizer.from_tokenizer(tokenizer_of("word-level", sep_token="dog"))
    assert marks.encode_text("dog") == [marks.unknown_id]


def test_the_fingerprint_changes_only_where_texts_have_other_tokens():
    """Of a pad token that merges are built from texts had the same tokens before."""
    assert (
        "text"
        not in WordTokenizer.from_tokenizer(
            tokenizer_of("byte-level", pad_token="d")
        ).backend.definition
    )
    assert (
        "text"
        in WordTokenizer.from_tokenizer(
            tokenizer_of("byte-level", pad_token="|")
        ).backend.definition
    )


def test_an_unknown_token_outside_the_model_is_found():
    """The tokenizers library fails on the first unknown character otherwise."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = models.BPE(
        {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyzP")}, [], unk_token="<u>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<u>"])
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<u>")
    words = WordTokenizer.from_tokenizer(own)
    assert words.encode_text("a 7 b") == [0, own.unk_token_id, 1]


def test_the_sample_has_every_added_token_and_every_character():
    tokens = [f"t{i}" for i in range(5000)] + ["中", "x中", "é", None, "added"]
    ids = sample_ids(tokens, [5004, 17])
    assert {17, 5000, 5001, 5002, 5004} <= set(ids)
    assert 5003 not in ids
    assert ids == sorted(set(ids))
    assert len(sample_ids(tokens, range(5000))) < 2500
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread("ab", 5) == ["a", "b"]


def test_characters_are_told_from_mark_up():
    for token in ("%", "Ġ%", "▁", "!</w>", "##s", "<0x0A>", "中"):
        assert is_character(token), token
    for token in ("<s>", "[PAD]", "ab", "<0x0A>x", "</w>"):
        assert not is_character(token), token


def test_the_callers_tokenizer_stays_as_it_is():
    own = with_added("wordpiece-uncased", [AddedToken("COVID-19")])
    before = copy.deepcopy(own.backend_tokenizer.to_str())
    WordTokenizer.from_tokenizer(own).encode_text("COVID-19")
    assert own.backend_tokenizer.to_str() == before
