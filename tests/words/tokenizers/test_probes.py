"""Vocabularies of every script, Latin letters or not."""

from __future__ import annotations

import pytest

from fuse_index.words.ragged import Ragged
from fuse_index.words.tokenizers.compositionality import are_compositional
from fuse_index.words.tokenizers.continued import continuing
from fuse_index.words.tokenizers.probes import PROBE_WORDS, probe_words
from fuse_index.words.tokenizers.tokenization import WordTokenizer
from fuse_index.words.tokenizers.vocabulary import has_words
from tests.words.families import KINDS, SCRIPTS, tokenizer_of

every_kind = pytest.mark.parametrize("kind", KINDS)
every_script = pytest.mark.parametrize("script", SCRIPTS)


@every_kind
@every_script
def test_words_of_every_script_are_tokenized_one_by_one(kind, script):
    own = tokenizer_of(kind, script)
    words = WordTokenizer.from_tokenizer(own)
    for sentence in SCRIPTS[script][:2]:
        listed = sentence.split()
        rows = words.encode_words(listed)
        assert words.unknown_id not in rows.values.tolist()
        (running,) = words.encode_running([sentence]).to_lists()
        assert words.encode_text(sentence) == own(sentence, add_special_tokens=False)["input_ids"]
        if kind != "characters":  # a space is a token of the word after it, or of none
            assert rows.values.tolist() == running
            some = list(dict.fromkeys(listed))
            assert are_compositional(words, some, words.encode_words(some)).all()
        texts = [" " + " ".join(listed[n:]) for n in range(1, len(listed))]
        for n, row in enumerate(continuing(words).encode_texts(texts).to_lists(), start=1):
            assert words.encode_text(" ".join(listed[:n])) + row == words.encode_text(sentence)
    probe = words.encode_text(words.probe_text)
    assert len(probe) >= 3
    assert set(probe) != {words.unknown_id}
    assert script == "latin" or words.unknown_id not in probe
    assert isinstance(words.encode_words([words.anchor]), Ragged)
    assert has_words(own.get_vocab(), own.all_special_tokens)


@every_kind
def test_everyday_words_are_taken_where_the_vocabulary_has_them(kind):
    words = WordTokenizer.from_tokenizer(tokenizer_of(kind))
    assert probe_words(words.backend) == PROBE_WORDS
    assert (words.anchor, words.probe_text) == ("a", "a few words")


def test_symbols_are_words_where_there_are_no_letters():
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0, "→": 1, "∀": 2, "≠": 3, "∑": 4}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = WordTokenizer.from_tokenizer(tokenizer)
    assert words.probe_text == "→ ∀ ≠"
    assert words.encode_text("∑ →") == [4, 1]


def test_a_made_up_vocabulary_has_no_words():
    assert not has_words(["<s>", "</s>", "▁", "<0x41>", "."], {"<s>", "</s>"})
    assert has_words(["<s>", "к"], {"<s>"})
    assert has_words(["<s>", "##7"], {"<s>"})
