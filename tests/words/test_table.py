from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from fuse_index.errors import OptionError, ShapeError, VocabularyError
from fuse_index.words.corpus.words import WordCounts, count_words
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import TableOptions, WordTable, build_word_table
from fuse_index.words.tokenizers.tokenization import WordTokenizer
from tests.words.strategies import word_lists
from tests.words.tokenizers_zoo import TEXT, wrapped


def counts_of(words):
    return WordCounts(tuple(words), np.arange(len(words), 0, -1, dtype=np.int64))


@pytest.mark.smoke
def test_a_table_has_the_tokens_of_both_sides():
    words = ["the", "dog", "photographers", "she's", "café"]
    table, left_out = build_word_table(
        counts_of(words), wrapped("gpt2"), wrapped("bert-uncased"), TableOptions(max_tokens=12)
    )
    assert table.words == tuple(words)
    assert left_out == {}
    assert table.source.equals(wrapped("gpt2").encode_words(words))
    assert table.target.equals(wrapped("bert-uncased").encode_words(words))
    assert table.counts.tolist() == [5, 4, 3, 2, 1]
    lengths = [table.source.lengths.tolist(), table.target.lengths.tolist()]
    assert table.shapes.T.tolist() == lengths


def test_every_word_left_out_has_one_reason():
    words = ["the", "xqzj7" * 5, "龘", "dog", "\x07", "bad\ud800", "photo"]
    table, left_out = build_word_table(
        counts_of(words), wrapped("gpt2"), wrapped("bert-cased"), TableOptions(max_tokens=8)
    )
    assert table.words == ("the", "dog", "photo")
    assert left_out == {
        "not valid Unicode": 1,
        "source: more than 8 tokens": 1,
        "target: no tokens": 1,
        "target: unknown tokens": 1,
    }


def test_lawless_words_are_counted_for_their_side():
    words = ["dog", "voilÃ", "ball"]
    table, left_out = build_word_table(
        counts_of(words), wrapped("gpt2"), wrapped("open_clip"), TableOptions(max_tokens=30)
    )
    assert table.words == ("dog", "ball")
    assert left_out == {"target: breaks the law": 1}
    _, left_out = build_word_table(
        counts_of(words), wrapped("open_clip"), wrapped("gpt2"), TableOptions(max_tokens=30)
    )
    assert left_out == {"source: breaks the law": 1}


@settings(max_examples=40)
@given(words=word_lists)
def test_tables_of_odd_words(words):
    source, target = wrapped("llama"), wrapped("clip")
    try:
        table, left_out = build_word_table(counts_of(words), source, target)
    except VocabularyError:
        return
    assert sum(left_out.values()) + len(table) == len(words)
    assert (table.shapes >= 1).all()
    assert (table.shapes <= 4).all()
    assert source.unknown_id not in table.source.values
    assert not set(table.target.values.tolist()) & target.special_ids
    text = " ".join(table.words)
    assert source.encode_text(source.lead + text) == table.source.values.tolist()
    assert target.encode_text(target.lead + text) == table.target.values.tolist()


def test_select_keeps_the_columns_together():
    table, _ = build_word_table(
        counts_of(sorted({w for line in TEXT for w in line.split()})),
        wrapped("gpt2"),
        wrapped("clip"),
        TableOptions(max_tokens=9),
    )
    picked = table.select(np.array([3, 0]))
    assert picked.words == (table.words[3], table.words[0])
    assert picked.source.to_lists() == [table.source[3].tolist(), table.source[0].tolist()]
    assert picked.target.to_lists() == [table.target[3].tolist(), table.target[0].tolist()]
    mask = table.source.lengths == 1
    assert len(table.select(mask)) == mask.sum() > 0


def test_progress_ends_at_the_total():
    seen: list[tuple[int, int]] = []
    build_word_table(
        counts_of(["the", "dog", "\x07"]),
        wrapped("gpt2"),
        wrapped("bert-cased"),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (6, 6)
    assert seen == sorted(seen)


def test_no_word_left_is_an_error():
    with pytest.raises(VocabularyError) as error:
        build_word_table(counts_of(["\x07", "xqzj7" * 9]), wrapped("gpt2"), wrapped("bert-cased"))
    assert "none of 2 words can be tokenized by both models; left out: {" in str(error.value)
    assert "'source: more than 4 tokens': 1" in str(error.value)


def test_bad_arguments():
    with pytest.raises(OptionError, match="max_tokens=0; expected at least 1"):
        TableOptions(max_tokens=0)
    with pytest.raises(ShapeError, match="expected the same length for all"):
        WordTable(("a",), np.array([1]), Ragged.from_lists([[1]]), Ragged.from_lists([]))


def test_the_real_pair(gpt2_dir, minilm_dir, captions_file, wikitext_file):
    from transformers import AutoTokenizer

    source = WordTokenizer.from_tokenizer(AutoTokenizer.from_pretrained(gpt2_dir))
    target = WordTokenizer.from_tokenizer(AutoTokenizer.from_pretrained(minilm_dir))
    counts = count_words([captions_file, wikitext_file])
    table, left_out = build_word_table(counts, source, target)
    assert len(table) + sum(left_out.values()) == len(counts)
    assert len(table) > 18_000
    generator = np.random.default_rng(0)
    for _ in range(50):
        rows = generator.integers(0, len(table), 20)
        text = " ".join(table.words[i] for i in rows)
        assert source.encode_text(" " + text) == table.source.select(rows).values.tolist()
        assert target.encode_text(text) == table.target.select(rows).values.tolist()
