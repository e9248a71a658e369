"""Sentences: true of their scenes, read back exactly, of the sentiment they claim."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.demo import (
    FULL,
    Sentence,
    SentenceOptions,
    Sentiment,
    Split,
    corpus,
    graph_of_sentence,
    make_scene,
    make_sentences,
    vocabulary,
    write_corpus,
    write_vocabulary,
)
from fuse_index.demo.lexicon import ADJECTIVES, COLOURS, VERBS
from fuse_index.errors import OptionError
from fuse_index.words.corpus.words import count_words, read_word_list

SPLITS = list(Split)
NUMBERS = st.integers(0, 10**9)


@pytest.fixture(scope="module")
def sentences():
    return [s for split in SPLITS for s in corpus(split, 700)]


@given(NUMBERS, st.sampled_from(SPLITS), st.sampled_from([None, *Sentiment]))
def test_parsing_is_the_inverse_of_writing(index, split, sentiment):
    scene = make_scene(split, index)
    options = SentenceOptions(sentiment=sentiment, background=0.3)
    for sentence in make_sentences(scene, 4, options=options):
        assert graph_of_sentence(sentence.text) == sentence.graph, sentence.text
        assert sentence.graph.facts() <= scene.truths, sentence.text
        assert sentiment in (None, sentence.sentiment)


@given(NUMBERS, st.sampled_from(SPLITS))
def test_a_full_sentence_says_the_whole_graph(index, split):
    scene = make_scene(split, index)
    for sentence in make_sentences(scene, 3, options=FULL):
        assert sentence.graph == scene.graph
        assert sentence.sentiment is Sentiment.NEUTRAL


def test_sentences_are_deterministic(sentences):
    assert sentences[:50] == list(corpus(Split.TRAIN, 700))[:50]
    assert sentences[:50] != list(corpus(Split.TRAIN, 700, seed=1))[:50]


def test_there_is_variety(sentences):
    texts = [s.text for s in sentences]
    assert len(set(texts)) > 0.99 * len(texts)
    skeletons = Counter(
        " ".join("C" if w in sum(COLOURS.values(), ()) else w for w in t.split()[:2]) for t in texts
    )
    assert len(skeletons) > 150
    lengths = [len(t.split()) for t in texts]
    assert 10 < sum(lengths) / len(lengths) < 20
    assert max(lengths) <= 40


def test_texts_are_plain_words(sentences):
    for sentence in sentences:
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", sentence.text)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", sentence.text), sentence.text


def test_half_the_sentences_are_neutral(sentences):
    share = Counter(s.sentiment for s in sentences)
    assert share[Sentiment.NEUTRAL] == pytest.approx(len(sentences) / 2, rel=0.06)
    assert share[Sentiment.POSITIVE] == pytest.approx(len(sentences) / 4, rel=0.1)


def test_sentiment_words_agree_with_the_sentiment(sentences):
    """By rule: the polarity of the only feeling word, turned round by "not"."""
    polarity = {w: s for table in (ADJECTIVES, VERBS) for s, words in table.items() for w in words}
    for sentence in sentences:
        words = sentence.text.split()
        felt = [polarity[w] for w in words if w in polarity]
        if sentence.sentiment is Sentiment.NEUTRAL:
            assert not felt
            continue
        (only,) = felt
        assert (only.opposite if "not" in words else only) is sentence.sentiment, sentence.text


def test_training_text_has_every_word(sentences):
    words = {w for s in corpus(Split.TRAIN, 3000) for w in s.text.split()}
    assert words == set(vocabulary())
    assert len(vocabulary()) == 152


def test_vocabulary_and_corpus_files(tmp_path):
    listed = read_word_list(write_vocabulary(tmp_path / "words.txt"))
    assert set(listed.words) == set(vocabulary())
    path = write_corpus(tmp_path / "corpus.txt", 50)
    assert len(path.read_text().splitlines()) == 200
    assert set(count_words([path]).words) <= set(vocabulary())


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", set()),
        ("nothing to see", set()),
        ("A RED circle, really!", {("circle",), ("circle", "red")}),
        ("red circle left of blue box", {("circle", "left of", "square"), ("square", "blue")}),
        ("the moon qwerty is xyzzy small", {("moon",), ("moon", "small")}),
        ("a star with a heart above it", {("heart", "above", "star")}),
        ("under a ring there is a cross", {("ring", "above", "cross")}),
        ("an arrow and to its left a disc", {("circle", "left of", "arrow")}),
        ("a star right of", {("star",)}),
        ("left of it", set()),
        ("at the top left of", set()),
        ("a heart on a navy canvas", {("heart",), ("background", "navy")}),
        ("the backdrop is dark with a heart", {("heart",), ("background", "black")}),
    ],
)
def test_other_text_is_read_as_far_as_it_goes(text, facts):
    assert facts <= graph_of_sentence(text).facts()
    if not facts:
        assert not graph_of_sentence(text).things


@given(st.lists(st.sampled_from([*vocabulary(), "zebra", "-", "42"]), max_size=30))
def test_no_sequence_of_words_is_an_error(words):
    graph = graph_of_sentence(" ".join(words))
    shapes = {thing.shape for thing in graph.things}
    assert all(a in shapes and b in shapes for a, _, b in graph.relations)


@given(st.text(max_size=60))
def test_no_text_is_an_error(text):
    graph_of_sentence(text)


def test_bad_options():
    with pytest.raises(OptionError, match=r"detail=2; expected at most 1"):
        SentenceOptions(detail=2)
    with pytest.raises(OptionError, match="count=-1"):
        make_sentences(make_scene(Split.TRAIN, 0), -1)
    with pytest.raises(OptionError, match="scenes=-1"):
        list(corpus(Split.TRAIN, -1))


def test_a_sentence_is_a_value():
    one, two = (make_sentences(make_scene(Split.TEST, 0), 1)[0] for _ in range(2))
    assert isinstance(one, Sentence)
    assert one == two
