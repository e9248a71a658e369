"""Counting out of core: the same words as in memory, whatever the text and wherever it is cut."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.errors import CorpusError, MissingDependencyError
from fuse_index.words.corpus import counting
from fuse_index.words.corpus.counting import Engine, count_shard, merge_counts, with_plain_spaces
from fuse_index.words.corpus.reading import find_sources
from fuse_index.words.corpus.shards import split_sources
from fuse_index.words.corpus.words import CorpusOptions, WordCounts, count_words

duckdb = pytest.importorskip("duckdb")
pa = pytest.importorskip("pyarrow")

SPACES = [chr(code) for code in range(0x110000) if chr(code).isspace()]
LETTERS = [*"abAB'\"\\,;", "\0", "\x01", "\x7f", "é", "İ", "Σ", "ς", "中", "\ufeff", "\u200b", "😀"]
TEXTS = st.lists(
    st.one_of(st.sampled_from(LETTERS + SPACES), st.characters(exclude_categories=["Cs"])),
    max_size=60,
).map("".join)


def count_on_disk(
    paths: list[Path], folder: Path, options: CorpusOptions, shard_bytes: int = 7
) -> WordCounts:
    engine = Engine(folder, threads=2)
    files = []
    for number, shard in enumerate(
        split_sources(find_sources(paths), options.encoding, shard_bytes)
    ):
        files.append(folder / f"{number}.parquet")
        count_shard(shard, options.encoding, files[-1], engine)
    return merge_counts(files, options, folder / "words", engine, "the text")


def assert_same(found: WordCounts, expected: WordCounts) -> None:
    part = found.part(0, len(found))
    assert part.words == expected.words
    assert part.counts.tolist() == expected.counts.tolist()
    assert found.sha256() == expected.sha256()


@settings(max_examples=25)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), lowercase=st.booleans())
def test_words_are_those_counted_in_memory(tmp_path_factory, texts, lowercase):
    folder = tmp_path_factory.mktemp("count")
    paths = []
    for number, text in enumerate([*texts, "Word word"]):
        paths.append(folder / f"{number}.txt")
        paths[-1].write_bytes(text.encode())
    options = CorpusOptions(lowercase=lowercase)
    assert_same(count_on_disk(paths, folder, options), count_words(paths, options))


@given(TEXTS)
def test_every_white_space_of_python_and_no_other_becomes_a_space(text):
    plain = with_plain_spaces(text).decode()
    assert [word for word in plain.split(" ") if word] == text.split()
    assert len(plain) == len(text)


def test_order_ties_and_limits(tmp_path, wikitext_file):
    for options in (
        CorpusOptions(min_count=2),
        CorpusOptions(max_words=777),
        CorpusOptions(lowercase=True, min_count=3, max_words=5000),
    ):
        found = count_on_disk([wikitext_file], tmp_path, options, 100_000)
        assert_same(found, count_words([wikitext_file], options))


def test_parts_are_read_from_anywhere(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("c ü b c 中文 b c\n" * 2, encoding="utf-8")
    found = count_on_disk([path], tmp_path, CorpusOptions())
    assert found.part(1, 3).words == ("b", "ü")
    assert found.part(1, 3).counts.tolist() == [4, 2]
    assert found.part(3, 9).words == ("中文",)
    assert found.part(4, 9).words == ()


def test_a_word_longer_than_rows_and_batches_stays_one(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "_ROW_BYTES", 16)
    monkeypatch.setattr(counting, "_BATCH_BYTES", 64)
    path = tmp_path / "text.txt"
    path.write_text("x" * 500 + " " + "ab cd " * 100 + "y" * 70, encoding="ascii")
    found = count_on_disk([path], tmp_path, CorpusOptions(), 100)
    assert found.part(0, 9).words == ("ab", "cd", "x" * 500, "y" * 70)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "cp1252"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "text.txt"
    path.write_bytes(("naïve café\u00a0été " * 3).encode(encoding))
    options = CorpusOptions(encoding=encoding)
    assert_same(count_on_disk([path], tmp_path, options), count_words([path], options))


def test_only_codecs_with_lone_surrogates_are_refused():
    assert counting.can_stream("utf-8")
    assert counting.can_stream("utf-16-le")
    assert not counting.can_stream("UTF7")
    assert not counting.can_stream("unicode_escape")


def test_nothing_left_is_said_as_in_memory(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" \n\t ", encoding="ascii")
    with pytest.raises(CorpusError, match="the corpus is empty: no word in the text"):
        count_on_disk([path], tmp_path, CorpusOptions())
    path.write_text("a b a", encoding="ascii")
    with pytest.raises(CorpusError, match=r"occurs 9 times; the most frequent occurs 2.*min_count"):
        count_on_disk([path], tmp_path, CorpusOptions(min_count=9))


def test_a_damaged_shard_is_named(tmp_path):
    bad = tmp_path / "bad.gz"
    bad.write_bytes(gzip.compress(b"some words " * 9999)[:-20])
    with pytest.raises(CorpusError, match=r"bad\.gz is a damaged gzip file"):
        count_on_disk([bad], tmp_path, CorpusOptions())
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"plain words here and caf\xe9 there")
    message = r"latin\.txt is not utf-8: byte 0xe9 at byte offset 24"
    with pytest.raises(CorpusError, match=message):  # offsets count from the file's beginning
        count_on_disk([latin], tmp_path, CorpusOptions())


def test_without_the_engine_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    path = tmp_path / "text.txt"
    path.write_text("a", encoding="ascii")
    assert not counting.has_engine()
    with pytest.raises(MissingDependencyError, match=r"duckdb.*pip install 'fuse-index\[scale\]'"):
        count_on_disk([path], tmp_path, CorpusOptions())


CONSTANT = """
import resource, sys
from pathlib import Path
from tests.words.corpus.test_counting import count_on_disk
from fuse_index.words.corpus.words import CorpusOptions
from fuse_index.words.corpus.counting import Engine
import tests.words.corpus.test_counting as t
t.Engine = lambda folder, threads: Engine(folder, 128 << 20, threads)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = count_on_disk([Path(sys.argv[1])], Path(sys.argv[2]), CorpusOptions(), 8 << 20)
print(len(found), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_words(tmp_path):
    """Words that take 500 MB as Python strings, counted in less than 128 MB and overhead."""
    path = tmp_path / "text.txt"
    with path.open("w", encoding="ascii") as stream:
        for start in range(0, 4_000_000, 100_000):
            stream.write(" ".join(f"word{i:x}" for i in range(start, start + 100_000)) + "\n")
    command = [sys.executable, "-c", CONSTANT, str(path), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    words, megabytes = map(int, done.stdout.split())
    assert words == 4_000_000
    assert megabytes < 128 + 256  # the limit, and what the build reckons with beside it


def test_the_counter_is_not_fooled_by_equal_prefixes(tmp_path):
    words = [f"w{i % 97}" for i in range(3000)]
    path = tmp_path / "text.txt"
    path.write_text("\u2003".join(words), encoding="utf-8")
    found = count_on_disk([path], tmp_path, CorpusOptions(), 500).part(0, 1000)
    assert dict(zip(found.words, found.counts.tolist(), strict=True)) == Counter(words)
