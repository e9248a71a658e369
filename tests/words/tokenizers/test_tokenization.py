from __future__ import annotations

import copy
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.errors import ModelError, VocabularyError
from fuse_index.words.tokenizers import tokenization
from fuse_index.words.tokenizers.tokenization import WordTokenizer
from tests.cases import case
from tests.words.strategies import words
from tests.words.tokenizers_zoo import ZOO, make, wrapped

SENTENCE = "a brown dog runs over the green grass, she's here 2024 café"
everyone = pytest.mark.parametrize("name", ZOO)


def special_free(name: str, text: str) -> list[int]:
    """The tokenizer's own ids of a text that spells no special token, without the ones it adds."""
    tokenizer = make(name)
    if name in ("open_clip", "open_clip-canonicalize"):
        return tokenizer.encode(text)
    if hasattr(tokenizer, "clean_fn"):
        text, tokenizer = tokenizer.clean_fn(text), tokenizer.tokenizer
    ids = tokenizer(text, add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    return list(ids)


@pytest.mark.parametrize(
    ("name", "lead", "family"),
    [
        ("gpt2", " ", "byte-level BPE (GPT-2)"),
        ("gpt2-added", " ", "byte-level BPE (GPT-2)"),
        ("roberta-prefix", "", "byte-level BPE (GPT-2)"),
        ("bert-uncased", "", "WordPiece (BERT)"),
        ("bert-cased", "", "WordPiece (BERT)"),
        ("llama", "", "SentencePiece BPE"),
        ("llama-legacy", "", "SentencePiece BPE"),
        ("t5", "", "SentencePiece Unigram"),
        ("clip", "", "end-of-word BPE (CLIP)"),
        ("open_clip", "", "end-of-word BPE (CLIP)"),
        ("open_clip-hf", "", "WordPiece (BERT)"),
        ("open_clip-hf-roberta", "", "byte-level BPE (GPT-2)"),
        ("open_clip-hf-t5", "", "SentencePiece Unigram"),
        ("slow-bert", "", "WordPiece (BERT)"),
        ("slow-sentencepiece-bpe", "", "SentencePiece"),
        ("slow-sentencepiece-unigram", "", "SentencePiece"),
        ("slow-sentencepiece-unigram-new", " ", "SentencePiece"),
        ("byt5", " ", "word by word"),
    ],
)
def test_lead_and_family_are_found_by_trying(name, lead, family):
    assert (wrapped(name).lead, wrapped(name).family) == (lead, family)


@pytest.mark.smoke
@everyone
def test_text_gets_the_tokenizers_own_ids(name):
    for text in (SENTENCE, " " + SENTENCE, "x", "", "two  spaces\tand\nlines "):
        assert wrapped(name).encode_text(text) == special_free(name, text), text


@everyone
@settings(max_examples=30)
@given(
    text=st.lists(words, max_size=6).map(" ".join).filter(lambda t: "<" not in t and "[" not in t)
)
def test_odd_text_gets_the_tokenizers_own_ids(name, text):
    if name in ("clip", "slow-bert") or "photo" in text:
        return  # their added tokens and caches are covered above
    assert wrapped(name).encode_text(text) == special_free(name, text)


@everyone
def test_words_are_tokenized_as_inside_running_text(name):
    tokenizer = wrapped(name)
    rows = tokenizer.encode_words(SENTENCE.split())
    (running,) = tokenizer.encode_running([SENTENCE]).to_lists()
    assert rows.values.tolist() == running
    ends = tokenizer.encode_text(f"the {SENTENCE}")
    assert ends[len(ends) - len(running) :] == running
    if not tokenizer.anchored:
        assert tokenizer.encode_text(tokenizer.lead + SENTENCE) == running


@everyone
def test_decode_is_the_tokenizers_own(name):
    tokenizer, own = wrapped(name), make(name)
    own = getattr(own, "tokenizer", own)
    generator = random.Random(1)
    known = [i for i in range(tokenizer.vocab_size) if tokenizer.token(i) is not None]
    rows = [generator.choices(known, k=generator.randint(1, 9)) for _ in range(300)]
    assert tokenizer.decode_batch(rows) == [own.decode(row) for row in rows]
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(np.array(rows[0])) == own.decode(rows[0])


SPELLED = ("[MASK]", "[UNK]", "<|endoftext|>", "<|startoftext|>", "<s>", "</s>", "<unk>", "<pad>")


@everyone
def test_a_spelled_special_token_is_text(name):
    tokenizer = wrapped(name)
    forbidden = tokenizer.special_ids - {tokenizer.unknown_id}
    for spelled in (*SPELLED, "<end_of_text>", "<start_of_text>", "<extra_id_0>"):
        with case(spelled=spelled):
            for text in (spelled, f"a {spelled} b", spelled.upper(), f"x{spelled}y"):
                assert not forbidden & set(tokenizer.encode_text(text))
            marked = spelled.replace("<", "").replace(">", "").strip("[]|/")
            assert len(tokenizer.encode_words([spelled])[0]) >= 1 + (len(marked) == 0)


@pytest.mark.parametrize(
    ("name", "spelled"),
    [("gpt2", "<|endoftext|>"), ("bert-uncased", "[MASK]"), ("t5", "</s>"), ("llama", "<s>")],
)
def test_the_plain_call_would_have_parsed_it(name, spelled):
    """What the tests above rule out is what the tokenizers do when asked directly."""
    (id_,) = make(name)(spelled, add_special_tokens=False, padding=False)["input_ids"][-1:]
    assert id_ in wrapped(name).special_ids
    assert id_ not in wrapped(name).encode_text(spelled)


@everyone
def test_the_callers_tokenizer_is_left_alone(name):
    tokenizer = ZOO[name]()
    inner = getattr(tokenizer, "tokenizer", tokenizer)

    def state():
        if hasattr(inner, "backend_tokenizer"):
            return inner.backend_tokenizer.to_str(), inner.backend_tokenizer.encode_special_tokens
        if hasattr(inner, "pat"):
            return inner.pat.pattern, inner.cache["<end_of_text>"], inner.encode("<end_of_text>")
        return inner.all_special_tokens, type(inner), inner.tokenize("[MASK] <s> x")

    before = copy.deepcopy(state())
    wrapper = WordTokenizer.from_tokenizer(tokenizer)
    wrapper.encode_text("[MASK] <s> x <end_of_text>")
    wrapper.decode([0])
    assert state() == before


def test_truncation_and_padding_do_not_reach_us():
    tokenizer = ZOO["bert-uncased"]()
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 6
    assert tokenizer.backend_tokenizer.padding["length"] == 16
    wrapper = WordTokenizer.from_tokenizer(tokenizer)
    ids = wrapper.encode_text("a dog " * 40)
    assert len(ids) == 80
    assert wrapper.encode_words(["dog"]).values.tolist() == ids[1:2]


def test_only_a_tokenizer_that_strips_its_text_needs_an_anchor():
    assert [name for name in ZOO if wrapped(name).anchored] == ["open_clip-hf-roberta"]
    roberta = wrapped("open_clip-hf-roberta")
    assert roberta.encode_words(["dog", "the"]).equals(wrapped("gpt2").encode_words(["dog", "the"]))
    assert roberta.encode_text(" dog") == wrapped("gpt2").encode_text("dog")


def test_dropout_is_off():
    noisy = copy.deepcopy(make("gpt2").backend_tokenizer)
    noisy.model.dropout = 0.9
    assert WordTokenizer.from_tokenizer(noisy).encode_text(SENTENCE) == wrapped("gpt2").encode_text(
        SENTENCE
    )


def test_the_fingerprint_is_of_behaviour_only():
    prints = {name: wrapped(name).fingerprint for name in ZOO}
    assert all(len(value) == 64 for value in prints.values())
    assert len(set(prints.values())) == len(ZOO)
    for name in ("bert-uncased", "gpt2", "open_clip", "slow-bert"):
        again = copy.deepcopy(make(name))
        if hasattr(again, "backend_tokenizer"):
            again.backend_tokenizer.no_padding()
            again.backend_tokenizer.enable_truncation(3)
            again.model_max_length = 5
        assert WordTokenizer.from_tokenizer(again).fingerprint == prints[name]
    changed = copy.deepcopy(make("gpt2"))
    changed.add_tokens(["dogs"])
    assert WordTokenizer.from_tokenizer(changed).fingerprint != prints["gpt2"]


def test_a_wrapped_tokenizer_is_returned_as_it_is():
    assert WordTokenizer.from_tokenizer(wrapped("gpt2")) is wrapped("gpt2")


def test_a_bare_rust_tokenizer_is_accepted():
    bare = WordTokenizer.from_tokenizer(make("gpt2").backend_tokenizer)
    assert bare.encode_text(SENTENCE) == wrapped("gpt2").encode_text(SENTENCE)
    assert bare.decode([5, 6]) == wrapped("gpt2").decode([5, 6])
    assert 0 in bare.special_ids


def test_added_ordinary_tokens_are_kept():
    assert [
        wrapped("gpt2-added").token(i) for i in wrapped("gpt2-added").encode_text("xphotoy  z")
    ] == [
        "x",
        "photo",
        "y",
        "  ",
        "z",
    ]


def test_what_cannot_be_used_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers

    with pytest.raises(ModelError, match="dict is no tokenizer this package knows"):
        WordTokenizer.from_tokenizer({})

    class Custom:
        def pre_tokenize(self, pretok):
            pass

    custom = Tokenizer(models.BPE({"a": 0}, []))
    custom.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Custom())
    with pytest.raises(ModelError, match="the tokenizer cannot be copied"):
        WordTokenizer.from_tokenizer(custom)

    # One token a letter pair, across spaces too: no lead makes words independent.
    letters = "abcdefghijklmnopqrstuvwxyzP7 "
    vocabulary = {a: i for i, a in enumerate(letters)}
    merges = [(a, " ") for a in letters.strip()] + [
        (f"{a} ", b) for a in letters.strip() for b in letters.strip()
    ]
    for a, b in merges:
        vocabulary.setdefault(a + b, len(vocabulary))
    crossing = Tokenizer(models.BPE(vocabulary, merges))
    with pytest.raises(ModelError, match="does not split text at spaces"):
        WordTokenizer.from_tokenizer(crossing)


@pytest.mark.parametrize("bad", [-1, 700, 10**12])
def test_ids_outside_the_vocabulary_are_named(bad):
    with pytest.raises(VocabularyError) as error:
        wrapped("gpt2").decode_batch([[1], [2, bad]])
    assert f"decode: token id {bad} in row 1; expected ids from 0 to 699" in str(error.value)


@pytest.mark.parametrize("name", ["gpt2", "open_clip", "slow-sentencepiece-bpe"])
def test_a_lone_surrogate_is_named(name):
    with pytest.raises(VocabularyError, match="holds a lone surrogate; expected valid Unicode"):
        wrapped(name).encode_texts(["fine", "bad \ud800"])


def test_the_real_tokenizers(gpt2_dir, minilm_dir):
    from transformers import AutoTokenizer

    gpt2 = AutoTokenizer.from_pretrained(gpt2_dir)
    minilm = AutoTokenizer.from_pretrained(minilm_dir)
    assert minilm.backend_tokenizer.padding["length"] == 128
    source, target = map(WordTokenizer.from_tokenizer, (gpt2, minilm))
    assert (source.lead, source.vocab_size, target.lead, target.unknown_id) == (" ", 50257, "", 100)
    assert (
        source.encode_words(["photographing"]).to_lists() == gpt2([" photographing"])["input_ids"]
    )
    long = "a photo of a dog " * 60
    assert len(target.encode_text(long)) == 300
    assert (
        target.encode_text("[MASK]") == minilm(" [ mask ] ", add_special_tokens=False)["input_ids"]
    )


@given(st.lists(st.text("ab ", max_size=9), max_size=12), st.integers(1, 20), st.integers(1, 5))
def test_batches_are_bounded_in_number_and_length(texts, characters, number):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tokenization, "_BATCH", number)
        patched.setattr(tokenization, "_BATCH_CHARACTERS", characters)
        batches = list(tokenization._batches(texts))
    assert [text for batch in batches for text in batch] == texts
    for batch in batches:
        assert 1 <= len(batch) <= number
        assert len(batch) == 1 or sum(map(len, batch)) <= characters
