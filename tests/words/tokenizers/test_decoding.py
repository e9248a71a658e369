from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.words.tokenizers.decoding import byte_of_character, decode_plan
from fuse_index.words.tokenizers.tokenization import WordTokenizer
from tests.words.tokenizers_zoo import ZOO, make, wrapped

PLANNED = [
    name for name in ZOO if not name.startswith("slow") and name not in ("bert-cased", "byt5")
]


@cache
def plan_of(name):
    return decode_plan(wrapped(name).backend)


@pytest.mark.parametrize("name", ZOO)
def test_who_has_a_plan(name):
    assert (plan_of(name) is not None) == (name in PLANNED)


@pytest.mark.parametrize("name", PLANNED)
@settings(max_examples=30)
@given(data=st.data())
def test_a_plan_decodes_as_the_tokenizer(name, data):
    tokenizer = wrapped(name)
    plan = plan_of(name)
    ids = st.integers(0, min(tokenizer.vocab_size, 2000) - 1)
    row = data.draw(st.lists(ids, max_size=8))
    found = plan.decode(row)
    if found is None:
        assert any(plan.exact[id_] for id_ in row)
        return
    text, starts = found
    assert text == tokenizer.decode(row)
    assert starts == sorted(starts)
    assert len(starts) == len(row)
    size = len(text.encode())
    assert all(0 <= start <= size for start in starts)


@pytest.mark.parametrize("name", PLANNED)
def test_tokens_begin_where_the_tokens_before_them_end(name):
    """Without half characters, white space at the ends and first-token ways: prefix by prefix."""
    tokenizer = wrapped(name)
    plan = plan_of(name)
    row = tokenizer.encode_text("the dog runs over a bridge she paints flowers again")
    text, starts = plan.decode(row)
    for count in range(1, len(row)):
        before = tokenizer.decode(row[:count])
        assert text.startswith(before)
        assert starts[count] - len(before.encode()) in (0, 1)  # stripping hides a space


def test_half_characters_become_the_replacement_character():
    tokenizer = wrapped("gpt2")
    plan = plan_of("gpt2")
    byte = {plan.inside[i]: i for i in range(tokenizer.vocab_size)}
    row = [byte[b"\xe4"], byte[b"\xb8"], byte[b"a"], byte[b"\xe4"], byte[b"\xb8"], byte[b"\xad"]]
    assert plan.decode(row) == ("\ufffda中", [0, 3, 3, 4, 5, 6])
    assert plan.decode(row[:1] * 2) == ("\ufffd\ufffd", [0, 3])


def test_suffixes_that_tokens_may_form_together_are_left_to_the_tokenizer():
    tokenizer = wrapped("open_clip")
    plan = plan_of("open_clip")
    ids = [tokenizer.backend.tokens.index(c) for c in "a</w>b"]
    assert plan.decode(ids) is None
    assert tokenizer.decode(ids) == "a b"


def test_the_byte_table_is_gpt2s():
    table = byte_of_character()
    assert sorted(table.values()) == list(range(256))
    assert (table["Ġ"], table["Ċ"], table["a"], table["Ń"]) == (32, 10, 97, 173)


def test_an_unknown_decoder_has_no_plan():
    from tokenizers import decoders

    backend = make("gpt2").backend_tokenizer.__class__.from_str(
        make("gpt2").backend_tokenizer.to_str()
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 3, 0)])
    assert decode_plan(WordTokenizer.from_tokenizer(backend).backend) is None
    backend.decoder = decoders.BPEDecoder()
    assert decode_plan(WordTokenizer.from_tokenizer(backend).backend) is None
