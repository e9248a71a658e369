"""Words that stand for those of a build: all of a small corpus, pieces of a large one."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from fuse_index.build.forecast import sampling
from fuse_index.build.forecast.sampling import (
    Origin,
    sample_corpus,
    sample_list,
    sample_vocabularies,
)
from fuse_index.demo import DemoModel, model_name
from fuse_index.errors import CorpusError
from fuse_index.models.embeddings import load_embeddings
from fuse_index.words.corpus.reading import TextSource, find_sources
from fuse_index.words.corpus.words import CorpusOptions, count_words


def silent(_done, _total) -> None:
    """No progress."""


def zipf_text(words: int, seed: int) -> str:
    """Text whose vocabulary grows as Heaps' law says."""
    ranks = np.random.default_rng(seed).zipf(1.5, words)
    return " ".join(f"w{rank:x}" for rank in ranks.tolist())


def test_a_small_corpus_is_counted_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("b a b c b a", encoding="utf-8")
    sample = sample_corpus(find_sources([path]), CorpusOptions(min_count=2), silent)
    assert sample.counts.words == ("b", "a")
    assert sample.weights.tolist() == [1, 1]
    assert (sample.total, sample.read_bytes, sample.corpus_bytes) == (2, 11, 11)
    assert sample.whole
    assert sample.origin is Origin.CORPUS


@pytest.fixture
def small_pieces(monkeypatch):
    """Everything that is large begins at a few kilobytes."""
    monkeypatch.setattr(sampling, "SAMPLE_BYTES", 200_000)
    monkeypatch.setattr(sampling, "_LEAST_PIECE", 10_000)


@pytest.mark.parametrize("min_count", [1, 2])
def test_a_large_corpus_is_continued_from_pieces(tmp_path, small_pieces, min_count):
    options = CorpusOptions(min_count=min_count)
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(zipf_text(60_000, number), encoding="utf-8")
    sources = find_sources([tmp_path])
    sample = sample_corpus(sources, options, silent)
    truth = len(count_words(sources, options))
    assert not sample.whole
    assert sample.read_bytes < 0.25 * sample.corpus_bytes
    assert sample.total == pytest.approx(truth, rel=0.15)
    assert len(sample.counts) < 0.6 * truth
    assert sample.weights.sum() == pytest.approx(sample.total)
    # What was not seen is like the rarest that was.
    rare = sample.counts.counts == sample.counts.counts.min()
    assert (sample.weights[~rare] == 1).all()
    assert (sample.weights[rare] > 1).all()
    again = sample_corpus(sources, options, silent)
    assert again.counts.words == sample.counts.words
    limited = CorpusOptions(min_count=min_count, max_words=100)
    assert sample_corpus(sources, limited, silent).total == 100


def test_lower_case_and_gzip_in_pieces(tmp_path, small_pieces):
    path = tmp_path / "a.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(zipf_text(400_000, 0).upper())
    sample = sample_corpus(find_sources([path]), CorpusOptions(lowercase=True), silent)
    assert all(word == word.lower() for word in sample.counts.words)
    assert sample.total > 1_000


def test_heaps_law_is_continued_exactly():
    for beta in (0.3, 0.7, 1.0):
        half, whole = 1000.0, 1000.0 * 2**beta
        assert sampling._heaps(half, whole, 0.5, 8.0) == pytest.approx(1000 * 16**beta)
    assert sampling._heaps(10, 10, 0.5, 100.0) == 10


def test_a_long_list_is_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE_WORDS", 100)
    path = tmp_path / "list.txt"
    path.write_text("\n".join(f"word{i}" for i in range(1000)), encoding="utf-8")
    sample = sample_list(path, CorpusOptions())
    assert len(sample.counts) == 100
    assert sample.total == 1000
    assert sample.weights.tolist() == [10] * 100
    assert sample.origin is Origin.LIST


def test_without_text_words_of_one_token_stand_in():
    lm, sentiment = (
        load_embeddings(model_name(model)).words for model in (DemoModel.LM, DemoModel.SENTIMENT)
    )
    sample = sample_vocabularies(lm, sentiment)
    words = list(sample.counts.words)
    single = [np.array(tokenizer.encode_words(words).lengths) == 1 for tokenizer in (lm, sentiment)]
    assert len(words) > 50
    assert (single[0] | single[1]).all()
    assert single[0].any()
    assert single[1].any()


def test_what_can_be_read_once_only_is_refused():
    with pytest.raises(CorpusError, match=r"standard input can be read only once.*into a file"):
        sample_corpus([TextSource(None, None)], CorpusOptions(), silent)


def test_pieces_without_words_that_stay(tmp_path, small_pieces):
    path = tmp_path / "a.txt"
    path.write_text(" ".join(f"w{i}" for i in range(60_000)), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"no word occurs 2 times.*lower --min-count"):
        sample_corpus(find_sources([path]), CorpusOptions(min_count=2), silent)
