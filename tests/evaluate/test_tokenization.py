"""Captions into words: the plain tokenizer by hand and against the Penn Treebank's."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import MissingDependencyError
from fuse_index.evaluate import Tokenization
from fuse_index.evaluate.tokenization import (
    choose_tokenization,
    plain_words,
    ptb_words,
    tokenize,
)
from tests.evaluate.captions import fake_java, hide_java, needs_java, require_metrics

CAPTIONS = [
    "A man's dog doesn't run; it's 3.5 feet, wow!",
    "two people -- one old , one young -- sit ...",
    'the sign says "stop" in the well-known t-shirt shop',
    "1,000 birds aren't here. they've left, we'll see: who's next?",
    "the dogs' ball is red/green",
    "A café in Zürich",
    "...",
]
"""On these the two tokenizers agree."""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's dog doesn't run!", ["a", "man", "'s", "dog", "does", "n't", "run"]),
        ("It’s 3.5 feet, wow", ["it", "'s", "3.5", "feet", "wow"]),
        ("1,000 birds,cats", ["1,000", "birds", "cats"]),
        ("(well-known) t-shirt -- 'quoted'", ["well-known", "t-shirt", "quoted"]),
        ("man 's do n't", ["man", "'s", "do", "n't"]),
        ("one\ttwo\r\nthree\u2028four", ["one", "two", "three", "four"]),
        ("一只狗。हिन्दी भाषा", ["一只狗", "हिन्दी", "भाषा"]),
        ("red/green and / or", ["red/green", "and", "or"]),
        (" .,- ", []),
        ("", []),
    ],
)
def test_plain_words_by_hand(text, words):
    assert plain_words(text) == words


@given(st.text())
def test_plain_words_are_lower_case_without_spaces_or_outer_punctuation(text):
    for word in plain_words(text):
        assert word.split() == [word]
        assert word[-1] not in "-'.,!?;:\"()"
        assert word[0] not in '-.,!?;:"()'
        assert not any("A" <= char <= "Z" for char in word)


@needs_java
def test_plain_words_are_the_treebanks_in_usual_captions():
    require_metrics()
    treebank = ptb_words(CAPTIONS)
    assert " ".join(treebank[0]) == "a man 's dog does n't run it 's 3.5 feet wow"
    assert [plain_words(text) for text in CAPTIONS] == treebank


@needs_java
def test_plain_words_are_the_treebanks_in_998_of_1000_real_captions(captions_file):
    require_metrics()
    lines = captions_file.read_text(encoding="utf-8").splitlines()
    treebank = ptb_words(lines)
    same = sum(plain_words(a) == b for a, b in zip(lines, treebank, strict=True))
    assert same / len(lines) > 0.998


@needs_java
def test_treebank_words_are_those_of_pycocoevalcap_itself(capfd):
    require_metrics()
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    expected = PTBTokenizer().tokenize({i: [{"caption": t}] for i, t in enumerate(CAPTIONS)})
    capfd.readouterr()
    assert [" ".join(words) for words in ptb_words(CAPTIONS)] == [
        expected[i][0] for i in range(len(CAPTIONS))
    ]
    assert capfd.readouterr() == ("", "")  # nothing of Java's talk reaches the terminal


@needs_java
def test_no_character_of_a_caption_shifts_the_others():
    """pycocoevalcap's own wrapper moves captions to the next image on a carriage return."""
    require_metrics()
    breaks = [*"\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x00\x1a\ufeff\u200b", "\r\n"]
    texts = [f"start{char}end" for char in breaks]
    texts = [text for pair in zip(texts, ["mark"] * len(texts), strict=True) for text in pair]
    found = ptb_words(["", *texts, "", "last", ""])
    assert len(found) == len(texts) + 4
    assert found[0] == found[-3] == found[-1] == []
    assert found[2:-3:2] == [["mark"]] * len(breaks)
    assert found[-2] == ["last"]


def test_without_java_the_plain_tokenizer_is_taken_and_said(monkeypatch, tmp_path, caplog):
    require_metrics()
    hide_java(monkeypatch, tmp_path)
    assert choose_tokenization(None) is Tokenization.PLAIN
    assert "the PTB tokenizer needs Java, and there is no 'java' on the PATH" in caplog.text
    assert choose_tokenization(Tokenization.PTB) is Tokenization.PTB
    with pytest.raises(MissingDependencyError, match="the PTB tokenizer needs Java"):
        tokenize(["a"], Tokenization.PTB)
    assert tokenize(["A dog."], Tokenization.PLAIN) == [["a", "dog"]]


def test_without_the_extra_the_plain_tokenizer_is_taken(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.tokenizer.ptbtokenizer", None)
    assert choose_tokenization(None) is Tokenization.PLAIN
    assert "needs pycocoevalcap" in caplog.text
    with pytest.raises(MissingDependencyError, match=r"pip install 'fuse-index\[metrics\]'"):
        ptb_words(["a"])


def test_a_java_that_fails_is_an_error_with_its_last_line(monkeypatch, tmp_path):
    require_metrics()
    fake_java(monkeypatch, tmp_path / "bin", "echo first >&2; echo the reason >&2; exit 3")
    with pytest.raises(MissingDependencyError, match=r"java ended with code 3 \(the reason\)"):
        ptb_words(["a"])
    fake_java(monkeypatch, tmp_path / "bin", "cat > /dev/null; echo one")
    with pytest.raises(MissingDependencyError, match="1 lines for 2 captions"):
        ptb_words(["a", "b"])


def test_a_java_that_does_not_start_is_missing(monkeypatch, tmp_path):
    """As the stub of macOS without a runtime."""
    require_metrics()
    path = tmp_path / "java"
    path.write_text("#!/bin/sh\necho Unable to locate a Java Runtime. >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(MissingDependencyError, match="does not start: Unable to locate a Java Run"):
        ptb_words(["a"])
