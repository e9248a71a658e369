from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_index.errors import OptionError, ShapeError, VocabularyError
from fuse_index.ops import native_status
from fuse_index.words.corpus.words import WordCounts
from fuse_index.words.retokenize.retokenizer import Retokenizer, RetokenizerOptions
from fuse_index.words.table import TableOptions, WordTable, build_word_table
from fuse_index.words.tokenizers.tokenization import WordTokenizer
from tests.words.strategies import characters, words
from tests.words.tokenizers_zoo import TEXT, ZOO, wrapped

PYTHON = RetokenizerOptions(native=False)
PAIRS = [
    ("gpt2", "bert-uncased"),
    ("gpt2", "open_clip"),
    ("gpt2", "clip"),
    ("gpt2", "t5"),
    ("gpt2", "llama"),
    ("gpt2", "gpt2"),
    ("gpt2-added", "gpt2-added"),
    ("gpt2", "open_clip-hf-roberta"),
    ("gpt2", "open_clip-hf-t5"),
    ("gpt2", "slow-sentencepiece-bpe"),
    ("roberta-prefix", "bert-cased"),
    ("llama", "open_clip"),
    ("llama-legacy", "gpt2-added"),
    ("t5", "roberta-prefix"),
    ("bert-uncased", "llama-legacy"),
    ("bert-cased", "clip"),
    ("clip", "open_clip-canonicalize"),
    ("clip", "gpt2"),
    ("open_clip", "open_clip-hf"),
    ("slow-sentencepiece-unigram", "t5"),
    ("byt5", "slow-bert"),
    ("gpt2-pad", "bert-added"),
    ("bert-added", "gpt2-pad"),
]
pairs = pytest.mark.parametrize(("source", "target"), PAIRS)
ROWS = 8


def rows_of(source: WordTokenizer):
    """Rows of ids: texts as the tokenizer gives them, with ids put in, left out and replaced."""
    some = sorted(
        {
            *range(min(source.vocab_size, 1500)),
            *range(max(0, source.vocab_size - 20), source.vocab_size),
        }
    )
    ids = st.lists(st.sampled_from(some), max_size=5)
    plain = st.sampled_from([word for line in TEXT for word in line.split()])
    word_list = st.lists(st.one_of(plain, plain, words), max_size=5)
    spaced = st.sampled_from([" ", " ", " ", "  ", "\n", " \t "]).flatmap(
        lambda space: word_list.map(space.join)
    )
    text = st.one_of(spaced, spaced.map(" ".__add__), st.text(characters, max_size=8))
    piece = st.one_of(ids, text.map(source.encode_text))
    return st.lists(piece, max_size=3).map(
        lambda pieces: [id_ for row in pieces for id_ in row][:24]
    )


def candidates_of(source: WordTokenizer):
    """Rows that differ from one of them in one place, as an optimizer proposes them."""

    def build(drawn):
        row, edits = drawn
        rows = [row]
        for place, id_ in edits:
            changed = list(row)
            if changed:
                changed[place % len(changed)] = id_
            rows.append(changed)
        return rows

    ids = st.integers(0, min(source.vocab_size, 1500) - 1)
    edits = st.lists(st.tuples(st.integers(0, 23), ids), min_size=ROWS - 1, max_size=ROWS - 1)
    return st.tuples(rows_of(source), edits).map(build)


def batches_of(source: WordTokenizer):
    mixed = st.lists(rows_of(source), min_size=ROWS, max_size=ROWS)
    return st.one_of(mixed, candidates_of(source))


def as_arrays(rows, extra=0):
    width = max(map(len, rows), default=0) + extra
    ids = np.full((len(rows), width), -7, np.int64)  # padding is never looked at
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, np.array([len(row) for row in rows], np.int64)


def reference(source, target, rows):
    return target.encode_texts(source.decode_batch(rows)).to_lists()


def assert_consistent(result, rows):
    """Words cover all tokens of both sides, row by row."""
    lengths = np.array([len(row) for row in rows])
    words_at = result.word_row_offsets
    assert len(words_at) == len(rows) + 1
    assert words_at[0] == 0
    assert words_at[-1] == len(result.source_counts)
    source_at = np.concatenate([[0], np.cumsum(lengths)])
    assert result.source_word_offsets[words_at].tolist() == source_at.tolist()
    assert result.target_word_offsets[words_at].tolist() == result.target.offsets.tolist()
    assert (result.source_counts >= 0).all()
    assert (result.target_counts >= 0).all()
    assert (result.source_counts + result.target_counts > 0).all()


_made: dict[tuple[str, str, bool], Retokenizer] = {}


def made(source, target, native):
    key = source, target, native
    if key not in _made:
        _made[key] = Retokenizer(
            wrapped(source), wrapped(target), options=RetokenizerOptions(native=native)
        )
    return _made[key]


def check(source, target, rows):
    """Both implementations equal the tokenizers, and each other in the words."""
    ids, lengths = as_arrays(rows)
    want = reference(wrapped(source), wrapped(target), rows)
    results = [made(source, target, native).retokenize(ids, lengths) for native in (True, False)]
    for result in results:
        assert result.target.to_lists() == want
        assert_consistent(result, rows)
    for name in ("source_word_offsets", "target_word_offsets", "word_row_offsets"):
        assert getattr(results[0], name).tolist() == getattr(results[1], name).tolist(), name


@pytest.mark.smoke
@pairs
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rows_equal_the_tokenizers(source, target, data):
    check(source, target, data.draw(batches_of(wrapped(source))))


@pytest.mark.slow
@pairs
@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_twenty_thousand_rows_equal_the_tokenizers(source, target, data):
    assert len(PAIRS) * 120 * ROWS > 20_000
    check(source, target, data.draw(batches_of(wrapped(source))))


def test_a_line_that_ftfy_repairs_only_in_company():
    rows = [[65, 199, 159, 245, 224, 199, 128, 226, 462]]  # 'a\n▁\nÃ "', which becomes 'à "'
    check("gpt2", "open_clip-hf-roberta", rows)


def test_the_native_core_is_used_where_it_is_there():
    expected = "native" if native_status().native else "python"
    assert made("gpt2", "bert-uncased", True).path == expected
    assert made("gpt2", "bert-uncased", False).path == "python"
    assert made("slow-bert", "gpt2", True).path == "tokenizers"
    assert made("gpt2", "slow-bert", True).path == "tokenizers"


@pytest.mark.smoke
@pytest.mark.parametrize("native", [True, False])
def test_words_by_hand(native):
    source, target = wrapped("gpt2"), wrapped("bert-uncased")
    rows = [source.encode_text(text) for text in ("the dog runs", " the dog", "dog  dog", "")]
    result = made("gpt2", "bert-uncased", native).retokenize(*as_arrays(rows, extra=3))
    assert result.word_row_offsets.tolist() == [0, 3, 5, 6, 6]
    counts = [len(row) for row in target.encode_words(["the", "dog", "runs", "the", "dog"])]
    assert result.target_counts[:5].tolist() == counts
    first = len(source.encode_text("the"))
    assert result.source_counts[0] == first
    assert result.source_counts[1] == len(source.encode_words(["dog"])[0])
    assert result.source_counts[5] == len(rows[2])  # two spaces: the words are not told apart
    padded = result.target.padded(fill=-9)
    assert padded.shape == (4, max(map(len, result.target)))
    assert padded[3].tolist() == [-9] * padded.shape[1]


@pytest.mark.parametrize("native", [True, False])
def test_a_word_belongs_to_the_tokens_that_spell_it(native):
    """Joined over the words, the tokens of both sides decode to the same text."""
    source, target = wrapped("gpt2"), wrapped("clip")
    row = source.encode_text("a brown dog runs over the green grass")
    result = made("gpt2", "clip", native).retokenize(np.array([row]))
    for w in range(len(result.source_counts)):
        a, b = result.source_word_offsets[w : w + 2]
        c, d = result.target_word_offsets[w : w + 2]
        assert source.decode(row[a:b]).strip() == target.decode(result.target.values[c:d]).strip()


def test_rows_the_tokenizers_must_convert_are_remembered(monkeypatch):
    source, target = wrapped("gpt2"), wrapped("slow-bert")
    retokenizer = Retokenizer(source, target, options=RetokenizerOptions(max_rows=4))
    rows = [source.encode_text(text) for text in ("the dog", "a ball", "the dog")]
    first = retokenizer.retokenize(*as_arrays(rows))
    assert first.word_row_offsets.tolist() == [0, 2, 4, 6]
    calls = []
    monkeypatch.setattr(target.backend, "encode_batch", lambda texts: calls.extend(texts) or [])
    again = retokenizer.retokenize(*as_arrays(rows))
    assert calls == []
    assert again.target.equals(first.target)
    monkeypatch.undo()
    many = [source.encode_text(f"dog {i}") for i in range(9)]
    result = retokenizer.retokenize(*as_arrays(many))
    assert result.target.to_lists() == reference(source, target, many)
    assert len(retokenizer._rows) == 4


def test_rows_of_both_kinds_keep_their_places():
    source, target = wrapped("gpt2-added"), wrapped("gpt2-added")
    texts = ["the dog", "a photograph here", "runs", "xphoto", "", "one more"]
    rows = [source.encode_text(text) for text in texts]
    check("gpt2-added", "gpt2-added", rows)
    result = made("gpt2-added", "gpt2-added", True).retokenize(*as_arrays(rows))
    assert result.target.to_lists() == [target.encode_text(text) for text in texts]


@pytest.mark.parametrize("native", [True, False])
def test_only_new_words_reach_the_tokenizer(native, monkeypatch):
    source, target = wrapped("gpt2"), wrapped("clip")
    options = RetokenizerOptions(native=native)
    retokenizer = Retokenizer(source, target, options=options)
    prompt = source.encode_text("a brown dog runs over the green grass")
    retokenizer.retokenize([prompt])
    seen: list[str] = []
    encode = target.backend.encode_batch

    def spy(texts):
        seen.extend(texts)
        return encode(texts)

    monkeypatch.setattr(target.backend, "encode_batch", spy)
    swapped = source.encode_text("a brown dog señor over the green grass")
    retokenizer.retokenize(*as_arrays([prompt, swapped, prompt]))
    assert [text.split()[-1] for text in seen if text.strip() != "a"] == ["señor"]


@pytest.mark.parametrize("native", [True, False])
def test_a_table_fills_the_cache(native, monkeypatch):
    source, target = wrapped("gpt2"), wrapped("bert-uncased")
    vocabulary = sorted({word for line in TEXT for word in line.split()})
    counts = WordCounts(tuple(vocabulary), np.ones(len(vocabulary), np.int64))
    table, _ = build_word_table(counts, source, target, TableOptions(max_tokens=20))
    retokenizer = Retokenizer(source, target, table, options=RetokenizerOptions(native=native))
    rows = [source.encode_text("the " + line) for line in TEXT[:8]]
    want = reference(source, target, rows)
    seen: list[str] = []
    encode = target.backend.encode_batch
    monkeypatch.setattr(target.backend, "encode_batch", lambda x: seen.extend(x) or encode(x))
    assert retokenizer.retokenize(*as_arrays(rows)).target.to_lists() == want
    plain = retokenizer.path == "native"  # then the extension encodes plain parts by itself
    assert seen == ([] if plain else ["the"])


def test_a_table_of_other_tokens_is_refused():
    source, target = wrapped("gpt2"), wrapped("bert-uncased")
    words_ = ("the", "dog")
    rows = source.encode_words(words_)
    table = WordTable(words_, np.ones(2, np.int64), rows, rows)
    with pytest.raises(
        VocabularyError, match="target tokens are not those of the target tokenizer"
    ):
        Retokenizer(source, target, table)
    empty = WordTable((), np.ones(0, np.int64), rows.select([]), rows.select([]))
    assert Retokenizer(source, target, empty).retokenize([[1]]).target.to_lists() == reference(
        source, target, [[1]]
    )


@pytest.mark.parametrize("native", [True, False])
def test_a_full_cache_is_emptied(native):
    source, target = wrapped("gpt2"), wrapped("bert-uncased")
    options = RetokenizerOptions(native=native, max_parts=3)
    retokenizer = Retokenizer(source, target, options=options)
    for line in TEXT[:9]:
        rows = [source.encode_text(line)]
        assert retokenizer.retokenize(rows).target.to_lists() == reference(source, target, rows)
        assert len(retokenizer._parts) <= len(line.split())


def test_empty_batches():
    for native in (True, False):
        retokenizer = made("gpt2", "bert-uncased", native)
        for shape in ((0, 0), (0, 5), (3, 0)):
            result = retokenizer.retokenize(np.zeros(shape, np.int64))
            assert result.target.to_lists() == [[]] * shape[0]
            assert result.word_row_offsets.tolist() == [0] * (shape[0] + 1)


@pytest.mark.parametrize(
    ("ids", "lengths", "error", "message"),
    [
        ([1, 2], None, ShapeError, "ids of shape (2,) and dtype int64; expected integers of shape"),
        ([[1.5]], None, ShapeError, "dtype float64"),
        ([[1], [1, 2]], None, ShapeError, "rows of different lengths; expected integers of shape"),
        ([[1]], [2], ShapeError, "lengths from 2 to 2; expected 0 to 1, the columns of ids"),
        ([[1]], [-1], ShapeError, "lengths from -1 to -1"),
        ([[1]], [1, 1], ShapeError, "lengths of shape (2,) and dtype int64; expected integers"),
        ([[1]], [0.5], ShapeError, "dtype float64"),
        ([[1, -1]], None, VocabularyError, "token id -1; expected ids from 0 to 699"),
        ([[700]], None, VocabularyError, "mask the rows of the embedding table that no token uses"),
    ],
)
@pytest.mark.parametrize("native", [True, False])
def test_bad_arguments(native, ids, lengths, error, message):
    retokenizer = made("gpt2", "bert-uncased", native)
    with pytest.raises(error) as caught:
        retokenizer.retokenize(ids, lengths)
    assert message in str(caught.value)


def test_padding_may_hold_anything():
    row = wrapped("gpt2").encode_text("the dog")
    ids = np.array([[*row, -1, 10**9]])
    result = made("gpt2", "bert-uncased", True).retokenize(ids, [len(row)])
    assert result.target.to_lists() == reference(wrapped("gpt2"), wrapped("bert-uncased"), [row])


@pytest.mark.parametrize(("name", "value"), [("threads", 0), ("max_parts", 0), ("max_rows", -1)])
def test_options_are_checked(name, value):
    with pytest.raises(OptionError, match=rf"{name}={value}; expected at least 1"):
        RetokenizerOptions(**{name: value})


@pytest.mark.parametrize("native", [True, False])
def test_threads_share_one_retokenizer(native):
    source, target = wrapped("gpt2"), wrapped("bert-uncased")
    options = RetokenizerOptions(native=native, threads=2, max_parts=20)
    retokenizer = Retokenizer(source, target, options=options)
    failures: list[object] = []

    def work(seed):
        generator = np.random.default_rng(seed)
        for _ in range(10):
            rows = [generator.integers(0, source.vocab_size, 6).tolist() for _ in range(12)]
            got = retokenizer.retokenize(rows).target.to_lists()
            if got != reference(source, target, rows):
                failures.append(rows)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_large_batches_take_threads():
    source, target = wrapped("gpt2"), wrapped("bert-uncased")
    generator = np.random.default_rng(0)
    ids = generator.integers(0, source.vocab_size, (6000, 12))
    results = [
        Retokenizer(source, target, options=RetokenizerOptions(threads=n)).retokenize(ids)
        for n in (1, 3)
    ]
    assert results[0].target.equals(results[1].target)
    assert results[0].source_word_offsets.tolist() == results[1].source_word_offsets.tolist()
    sample = generator.integers(0, 6000, 200)
    want = reference(source, target, ids[sample].tolist())
    assert results[1].target.select(sample).to_lists() == want


def test_every_family_is_a_source_and_a_target():
    assert {name for pair in PAIRS for name in pair} >= set(ZOO) - {
        "slow-sentencepiece-unigram-new",
    }
