"""Cutting a corpus into shards, and text from Parquet, patterns and URLs."""

from __future__ import annotations

import gzip
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import CorpusError, MissingDependencyError
from fuse_index.words.corpus.reading import TextSource, find_sources, read_text
from fuse_index.words.corpus.shards import split_sources
from fuse_index.words.corpus.words import count_words

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")


def text_of(source: TextSource) -> str:
    return "".join(read_text(source, "utf-8", lambda _: None))


def write_parquet(path, rows, group: int = 3, **columns):
    table = pa.table({"text": rows, **columns})
    pq.write_table(table, path, row_group_size=group)


@given(
    st.lists(st.sampled_from(["a", "bc", "é", "中", " ", "\n", "\x1c", "\u2003"]), max_size=80),
    st.integers(1, 40),
)
def test_shards_hold_the_text_and_cut_no_word(tmp_path_factory, pieces, size):
    text = "".join(pieces)
    path = tmp_path_factory.mktemp("shards") / "text.txt"
    path.write_bytes(text.encode())
    (source,) = find_sources([path])
    shards = split_sources([source], "utf-8", size)
    assert "".join(map(text_of, shards)) == text
    assert [word for shard in shards for word in text_of(shard).split()] == text.split()
    assert sum(shard.size for shard in shards) == source.size


def test_shards_are_about_as_long_as_asked(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("word " * 2000, encoding="ascii")
    sizes = [shard.size for shard in split_sources(find_sources([path]), "utf-8", 1000)]
    assert len(sizes) == 10
    assert max(sizes) - min(sizes) <= 10


def test_what_cannot_be_cut_is_one_shard(tmp_path):
    packed, wide = tmp_path / "a.gz", tmp_path / "b.txt"
    packed.write_bytes(gzip.compress(os.urandom(999).hex().encode()))
    wide.write_bytes(("ab " * 999).encode("utf-16"))
    assert len(split_sources(find_sources([packed]), "utf-8", 100)) == 1
    assert len(split_sources(find_sources([wide]), "utf-16", 100)) == 1


def test_parquet_is_read_by_row_groups(tmp_path):
    rows = ["one two", None, "", "three", "four\nfive", "six", "seven"]
    path = tmp_path / "texts.bin"  # known by its first bytes, not by its name
    write_parquet(path, rows, group=2, number=range(7), other=["x"] * 7)
    sources = find_sources([path])
    words = " ".join(row for row in rows if row).split()
    assert text_of(sources[0]).split() == words
    shards = split_sources(sources, "utf-8", 1)
    assert [(s.start, s.stop) for s in shards] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert [word for shard in shards for word in text_of(shard).split()] == words
    assert len(count_words([path])) == len(words)


def test_a_parquet_file_must_say_which_column_is_meant(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"title": ["a"], "body": ["b"]}), path)
    with pytest.raises(CorpusError, match=r"t\.parquet has the columns.*'title', 'body'.*'text'"):
        count_words([path])
    pq.write_table(pa.table({"body": ["b c"], "n": [1]}), path)
    assert count_words([path]).words == ("b", "c")


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, ["a"] * 9)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorpusError, match=r"t\.parquet cannot be read"):
        count_words([path])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    write_parquet(path, ["a"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match=r"pyarrow.*fuse-index\[scale\]"):
        count_words([path])


def test_patterns_match_files_and_folders(tmp_path):
    (tmp_path / "x").mkdir()
    for name, text in (("x/1.txt", "one"), ("x/2.txt", "two"), ("3.txt", "three"), ("4.md", "no")):
        (tmp_path / name).write_text(text, encoding="ascii")
    assert set(count_words([f"{tmp_path}/*.txt"]).words) == {"three"}
    assert set(count_words([f"{tmp_path}/**/*.txt"]).words) == {"one", "two", "three"}
    assert set(count_words([f"{tmp_path}/x*"]).words) == {"one", "two"}
    with pytest.raises(CorpusError, match=r"\*\.csv does not exist"):
        count_words([f"{tmp_path}/*.csv"])


@pytest.fixture
def store():
    system = fsspec.filesystem("memory")
    system.pipe("/texts/a.txt", b"alpha beta\n" * 50)
    system.pipe("/texts/deep/b.gz", gzip.compress(b"gamma beta"))
    system.pipe("/texts/.hidden", b"nothing")
    yield system
    system.rm("/texts", recursive=True)


def test_urls_of_files_folders_and_patterns(store):
    assert count_words(["memory://texts/a.txt"]).words == ("alpha", "beta")
    assert set(count_words(["memory://texts"]).words) == {"alpha", "beta", "gamma"}
    assert set(count_words(["memory://texts/**/*.gz"]).words) == {"gamma", "beta"}
    (source,) = find_sources(["memory://texts/a.txt"])
    shards = split_sources([source], "utf-8", 100)
    assert len(shards) == 6
    assert "".join(map(text_of, shards)) == "alpha beta\n" * 50


def test_what_a_store_refuses_is_one_line_that_names_it(store, monkeypatch):
    with pytest.raises(CorpusError, match=r"memory://texts/none\.txt does not exist"):
        count_words(["memory://texts/none.txt"])

    def refuse(*_, **__):
        raise PermissionError(13, "Forbidden")

    monkeypatch.setattr(type(store), "_open", refuse)
    with pytest.raises(CorpusError, match=r"memory:///?texts/a.txt cannot be read: Forbidden"):
        count_words(["memory://texts/a.txt"])


def test_a_kind_of_url_whose_package_is_missing():
    with pytest.raises((MissingDependencyError, CorpusError), match="nosuch://bucket"):
        count_words(["nosuch://bucket/texts"])
