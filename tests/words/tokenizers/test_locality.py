from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from fuse_index.words.tokenizers.cleaning import cleans_locally
from fuse_index.words.tokenizers.locality import SAFE_SPLITS, locality_of
from fuse_index.words.tokenizers.tokenization import WordTokenizer
from tests.words.strategies import characters, words
from tests.words.tokenizers_zoo import ZOO, make, wrapped

LOCAL = [name for name in ZOO if not name.startswith("slow") and name != "byt5"]
texts = st.lists(
    st.one_of(words, st.text(characters, max_size=3), st.sampled_from(["  ", "\n", "a", "the"])),
    max_size=7,
).map(" ".join)


def parts_of(locality, text):
    bounds = [0, *locality.cuts(text), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


def joined(tokenizer, locality, text):
    """Ids of a text from its parts, or None if it must be tokenized whole."""
    parts = parts_of(locality, text)
    if any(map(locality.whole, parts)):
        return None
    ids = tokenizer.encode_text(parts[0])
    anchor = tokenizer.encode_text(locality.anchor)
    for part in parts[1:]:
        row = tokenizer.encode_text(locality.anchor + part)
        assert row[: len(anchor)] == anchor
        ids += row[len(anchor) :]
    return ids


@pytest.mark.parametrize("name", ZOO)
def test_who_is_proved_local(name):
    assert (locality_of(wrapped(name).backend) is not None) == (name in LOCAL)


@pytest.mark.parametrize("name", LOCAL)
@settings(max_examples=50)
@given(text=texts)
def test_parts_tokenize_as_the_whole(name, text):
    tokenizer = wrapped(name)
    ids = joined(tokenizer, locality_of(tokenizer.backend), text)
    assert ids is None or ids == tokenizer.encode_text(text)


@pytest.mark.parametrize("name", LOCAL)
def test_ordinary_text_is_cut_at_every_space(name):
    tokenizer = wrapped(name)
    locality = locality_of(tokenizer.backend)
    text = "the dog runs, she's here 2024 and café or señor."
    assert parts_of(locality, text)[1:] == [f" {word}" for word in text.split()[1:]]
    assert joined(tokenizer, locality, text) == tokenizer.encode_text(text)
    assert parts_of(locality, "a  b \n c") == ["a  b \n c"]
    assert parts_of(locality, "a ▁b") == ["a ▁b"]
    assert parts_of(locality, "") == [""]


def test_added_tokens_make_a_text_whole():
    locality = locality_of(wrapped("gpt2-added").backend)
    assert locality.whole(" xphotox")
    assert not locality.whole(" x")
    assert not locality.whole("x  y")  # runs of spaces are added tokens, too, but inside a part


@pytest.mark.parametrize("pattern", sorted(SAFE_SPLITS))
@settings(max_examples=30)
@given(text=texts)
def test_safe_splits_are_safe(pattern, text):
    tokenizer = _split_tokenizer(pattern)
    locality = locality_of(tokenizer.backend)
    ids = joined(tokenizer, locality, text)
    assert ids is None or ids == tokenizer.encode_text(text)


_made: dict[str, WordTokenizer] = {}


def _split_tokenizer(pattern):
    if pattern not in _made:
        spec = json.loads(make("gpt2").backend_tokenizer.to_str())
        tokenizer = Tokenizer.from_str(json.dumps(spec))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        _made[pattern] = WordTokenizer.from_tokenizer(tokenizer)
    return _made[pattern]


def altered(name, change):
    spec = json.loads(make(name).backend_tokenizer.to_str())
    change(spec)
    return locality_of(WordTokenizer.from_tokenizer(Tokenizer.from_str(json.dumps(spec))).backend)


def setter(part, value):
    def change(spec):
        spec[part] = json.loads(value.__getstate__()) if hasattr(value, "__getstate__") else value

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", setter("normalizer", normalizers.Replace("a ", "b"))),
        ("gpt2", setter("normalizer", normalizers.Replace(Regex("a|b"), "c"))),
        ("gpt2", setter("pre_tokenizer", pre_tokenizers.UnicodeScripts())),
        ("llama", lambda s: s["model"].update(ignore_merges=True)),
    ],
)
def test_what_is_not_known_to_be_local_is_not(name, change):
    assert altered(name, change) is None


def test_without_a_split_the_merges_decide():
    change = setter("pre_tokenizer", pre_tokenizers.ByteLevel(use_regex=False))
    assert altered("gpt2", change) is not None

    def crossing(spec):
        change(spec)
        spec["model"]["vocab"]["aĠ"] = len(spec["model"]["vocab"])
        spec["model"]["merges"].append(["a", "Ġ"])

    assert altered("gpt2", crossing) is None


def test_a_merge_across_a_space_is_found():
    def change(spec):
        model = spec["model"]
        model["vocab"]["s▁"] = len(model["vocab"])
        model["vocab"]["s▁t"] = len(model["vocab"])
        model["merges"].append(["s", "▁t"])

    def harmless(spec):
        spec["model"]["vocab"]["▁▁"] = len(spec["model"]["vocab"])
        spec["model"]["merges"].append(["▁", "▁"])

    assert altered("llama", change) is None
    assert altered("llama", harmless) is not None


def test_bare_bpe_over_spaces_needs_the_space_in_its_vocabulary():
    letters = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyzP7 ")}
    tokenizer = Tokenizer(models.BPE(letters, []))
    assert locality_of(WordTokenizer.from_tokenizer(tokenizer).backend) is not None
    del letters[" "]
    tokenizer = Tokenizer(models.BPE(letters, [], unk_token="a", fuse_unk=True))
    assert locality_of(WordTokenizer.from_tokenizer(tokenizer).backend) is None


@settings(max_examples=100)
@given(
    st.lists(st.one_of(words, st.text(characters, min_size=1, max_size=4)), min_size=2, max_size=5)
)
def test_local_parts_are_cleaned_by_themselves(pieces):
    from open_clip.tokenizer import get_clean_fn

    clean = get_clean_fn("lower")
    pieces = ["".join(piece.split()) for piece in pieces]
    pieces = [piece for piece in pieces if piece and cleans_locally(f" {piece}")]
    assert clean(" ".join(pieces)) == " ".join(filter(None, (clean(piece) for piece in pieces)))


def test_what_looks_like_mojibake_as_a_line_is_not_cleaned_alone():
    """ftfy repairs line by line: with a space behind it, the last line becomes another letter."""
    assert not cleans_locally("\nÃ")
    assert not cleans_locally("a\n▁\nÃ")
    assert cleans_locally("a\n▁\né")
