from __future__ import annotations

import gzip
import io
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import CorpusError, OptionError
from fuse_index.words.corpus import reading
from fuse_index.words.corpus.words import CorpusOptions, count_words, read_word_list
from tests.words.strategies import characters

SPACES = " \n\t\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000"


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def as_dict(counts):
    return dict(zip(counts.words, counts.counts.tolist(), strict=True))


@given(
    st.text(st.one_of(characters, st.sampled_from(SPACES)), max_size=80),
    st.integers(1, 9),
    st.booleans(),
)
def test_counts_equal_str_split_whatever_the_chunks(tmp_path_factory, text, chunk, packed):
    text = "x " + text
    path = tmp_path_factory.getbasetemp() / "text.txt"
    write(path, gzip.compress(text.encode()) if packed else text)
    before = reading._CHUNK_BYTES
    try:
        reading._CHUNK_BYTES = chunk
        counts = count_words([path])
    finally:
        reading._CHUNK_BYTES = before
    expected = Counter(text.split())
    assert as_dict(counts) == expected
    assert list(counts.words) == sorted(expected, key=lambda word: (-expected[word], word))
    assert counts.counts.dtype == np.int64


def test_a_word_longer_than_many_chunks_is_one_word(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 16)
    word = "né" * 4000
    assert as_dict(count_words([write(tmp_path / "a", f"a {word}b {word}")])) == {
        "a": 1,
        word + "b": 1,
        word: 1,
    }


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 1 << 14)
    monkeypatch.setattr(reading, "_BUFFER_BYTES", 1 << 14)
    line = b"one two three four five six seven eight nine ten " * 20
    path = write(tmp_path / "long", line * 3000)  # 3 MB, no line feed at all
    tracemalloc.start()
    counts = count_words([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert as_dict(counts)["ten"] == 60_000
    assert peak < 1e6 < path.stat().st_size / 2


@pytest.mark.smoke
def test_files_gzip_folders_and_standard_input_add_up(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    write(folder / "b.txt", "b b")
    write(folder / "deep" / "a", "a")
    write(folder / ".hidden" / "no.txt", "no")
    write(folder / ".no.txt", "no")
    write(folder / "c.gz", gzip.compress(b"c c") + gzip.compress(b"c"))  # two members
    single = write(tmp_path / "single", gzip.compress(b"s"))  # gzip without the suffix
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"in in\nin in")))
    counts = count_words([folder, str(single), "-"])
    assert as_dict(counts) == {"in": 4, "b": 2, "c": 1, "cc": 1, "a": 1, "s": 1}


def test_folders_are_read_in_sorted_order(tmp_path):
    for name in ("z", "a/2", "a/10", "b"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write(path, "x")
    names = [
        Path(s.name).relative_to(tmp_path).as_posix() for s in reading.find_sources([tmp_path])
    ]
    assert names == ["a/10", "a/2", "b", "z"]


def test_links_hidden_files_and_flat_folders(tmp_path):
    texts, elsewhere = tmp_path / "texts", tmp_path / "elsewhere"
    for path, text in ((texts / "a", "a"), (texts / "in/b", "b"), (elsewhere / "c", "c")):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text)
    write(texts / "._a", b"\0\xff")
    (texts / "linked").symlink_to(elsewhere)
    (texts / "twice").symlink_to(elsewhere)
    (texts / "loop").symlink_to(texts)
    assert as_dict(count_words([texts])) == {"a": 1, "b": 1, "c": 1}
    assert as_dict(count_words(reading.find_sources([texts], nested=False))) == {"a": 1}
    (tmp_path / "links").mkdir()
    (tmp_path / "links/linked").symlink_to(elsewhere)
    assert as_dict(count_words([tmp_path / "links"])) == {"c": 1}


def test_a_pattern_reads_every_file_once(tmp_path):
    for name in ("a", "in/b", "in/deep/c", ".no/d"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "texts" / name, name[-1])
    assert as_dict(count_words([tmp_path / "texts/**"])) == {"a": 1, "b": 1, "c": 1}
    assert as_dict(count_words([tmp_path / "texts/*"])) == {"a": 1, "b": 1, "c": 1}
    assert as_dict(count_words([tmp_path / "texts/i*"])) == {"b": 1, "c": 1}
    assert as_dict(count_words(reading.find_sources([tmp_path / "texts/*"], nested=False))) == {
        "a": 1,
        "b": 1,
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"empt\* matches no file"):
        reading.find_sources([tmp_path / "empt*"])


@pytest.mark.parametrize("name", ["pipe", "device", "socket"])
def test_only_regular_files_and_standard_input_are_corpora(tmp_path, name):
    import os
    import socket

    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif name == "device":
        path = Path("/dev/null")
    else:
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))
    for read in (count_words, lambda given: read_word_list(given[0])):
        with pytest.raises(CorpusError) as error:
            read([path])
        assert str(error.value) == (
            f"corpus {path} is not a regular file; expected a text file, a gzip file, a folder, or "
            "- for standard input; write the text to a file, or pipe it into - as standard input"
        )


def test_names_of_standard_input(monkeypatch):
    for name in ("-", "/dev/stdin", "/dev/fd/0"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"in in")))
        assert as_dict(count_words([name])) == {"in": 2}


def test_a_folder_is_a_list_of_words_only_if_it_holds_one_file(tmp_path):
    write(tmp_path / "a", "one\n")
    assert as_dict(read_word_list(tmp_path)) == {"one": 1}
    write(tmp_path / "b", "two\n")
    with pytest.raises(CorpusError, match="is 2 files; expected one file; name it, or pass"):
        read_word_list(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    assert as_dict(count_words([write(tmp_path / "a", b"\xef\xbb\xbfone two")])) == {
        "one": 1,
        "two": 1,
    }


def test_options(tmp_path):
    path = write(tmp_path / "a", "The the THE cat Cat dog ΟΔΟΣ οδος")
    assert as_dict(count_words([path], CorpusOptions(lowercase=True))) == {
        "the": 3,
        "cat": 2,
        "οδος": 2,
        "dog": 1,
    }
    assert as_dict(
        count_words([path], CorpusOptions(lowercase=True, min_count=2, max_words=2))
    ) == {
        "the": 3,
        "cat": 2,
    }
    assert count_words([path], CorpusOptions(max_words=3)).words == ("Cat", "THE", "The")
    latin = write(tmp_path / "b", "été".encode("latin-1"))
    assert count_words([latin], CorpusOptions(encoding="latin-1")).words == ("été",)
    wide = write(tmp_path / "c", "été 中".encode("utf-16"))
    assert set(count_words([wide], CorpusOptions(encoding="utf-16")).words) == {"été", "中"}


def test_progress_reports_bytes_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(reading, "_BUFFER_BYTES", 64)
    plain = write(tmp_path / "a", "word " * 100)
    packed = write(tmp_path / "b.gz", gzip.compress(bytes(range(65, 91)) * 50))
    total = plain.stat().st_size + packed.stat().st_size
    seen: list[tuple[int, int | None]] = []
    count_words([plain, packed], progress=lambda done, size: seen.append((done, size)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)
    assert len(seen) > 3
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"in")))
    seen.clear()
    count_words([plain, "-"], progress=lambda done, size: seen.append((done, size)))
    assert seen[-1] == (plain.stat().st_size + 2, None)


@given(
    st.integers(0, 40),
    st.sampled_from([b"\xff", b"\xc3 ", b"\xe2\x82 ", b"\xed\xa0\x80"]),
    st.integers(1, 9),
    st.booleans(),
)
def test_wrong_bytes_are_found_to_the_byte(tmp_path_factory, before, wrong, chunk, packed):
    data = ("é" * before).encode() + wrong + b"tail of the text"
    with pytest.raises(UnicodeDecodeError) as expected:
        data.decode("utf-8")
    path = tmp_path_factory.getbasetemp() / "wrong"
    write(path, gzip.compress(data) if packed else data)
    chunks = reading._CHUNK_BYTES
    try:
        reading._CHUNK_BYTES = chunk
        with pytest.raises(CorpusError) as error:
            count_words([path])
    finally:
        reading._CHUNK_BYTES = chunks
    offset = expected.value.start
    assert f"{path} is not utf-8: byte 0x{data[offset]:02x} at byte offset {offset}" in str(
        error.value
    )
    assert "--encoding" in str(error.value)


def test_a_character_cut_off_at_the_end_is_named(tmp_path):
    path = write(tmp_path / "a", "abc é".encode()[:-1])
    with pytest.raises(
        CorpusError, match="byte 0xc3 at byte offset 4 begins a character that is cut off"
    ):
        count_words([path])


def test_damaged_gzip_is_named(tmp_path):
    data = gzip.compress(np.random.default_rng(0).bytes(1000).hex().encode())
    broken = bytearray(data)
    broken[-8] ^= 1  # the checksum
    for bad in (data[:100], data[:-1], bytes(broken), data[:3]):
        path = write(tmp_path / "bad.gz", bad)
        with pytest.raises(CorpusError, match=r"bad\.gz is a damaged gzip file"):
            count_words([path])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: [], "no corpus; expected files, folders, or - for standard input"),
        (lambda d: [d / "gone.txt"], "gone.txt does not exist; expected a text file"),
        (lambda d: [d], "holds no file; expected text or gzip files"),
        (lambda d: [write(d / "empty", "")], "the corpus is empty: no word in"),
        (lambda d: [write(d / "blank", " \n\u3000\t")], "the corpus is empty: no word in"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path, make, message):
    with pytest.raises(CorpusError) as error:
        count_words(make(tmp_path))
    assert message in str(error.value)


def test_min_count_above_every_count_says_the_highest(tmp_path):
    path = write(tmp_path / "a", "b b c")
    with pytest.raises(
        CorpusError, match=r"occurs 3 times; the most frequent occurs 2.*--min-count"
    ):
        count_words([path], CorpusOptions(min_count=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_count": 0}, "min_count=0; expected at least 1"),
        ({"max_words": 0}, "max_words=0; expected at least 1"),
        ({"encoding": "no-such"}, "encoding='no-such'; expected a text encoding"),
        ({"encoding": "zip"}, "encoding='zip'; expected a text encoding"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(OptionError) as error:
        CorpusOptions(**options)
    assert message in str(error.value)


def test_the_hash_covers_words_and_counts(tmp_path):
    hashes = {
        count_words([write(tmp_path / "a", text)]).sha256()
        for text in ("a b", "a b b", "a bb", "ab")
    }
    assert len(hashes) == 4
    same = count_words([write(tmp_path / "b", "b  a")]).sha256()
    assert same == count_words([write(tmp_path / "c", "a\nb")]).sha256()


def test_word_list_with_and_without_counts(tmp_path):
    plain = write(tmp_path / "a", "\ufeffzebra\n\napple\r\nzebra\n mango \n")
    assert as_dict(read_word_list(plain)) == {"zebra": 2, "apple": 1, "mango": 1}
    assert read_word_list(plain, CorpusOptions(max_words=2)).words == ("zebra", "apple")
    counted = write(tmp_path / "b.gz", gzip.compress(b"rare\t1\noften\t50\nsome\t7"))
    words = read_word_list(counted, CorpusOptions(max_words=2))
    assert as_dict(words) == {"often": 50, "some": 7}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("two words", "line 2: 'two words'; expected one word, optionally a tab and a count"),
        ("word\tmany", "line 2: the count 'many'; expected a positive number"),
        ("word\t0", "line 2: the count '0'; expected a positive number"),
    ],
)
def test_word_list_errors_name_the_line(tmp_path, line, message):
    with pytest.raises(CorpusError) as error:
        read_word_list(write(tmp_path / "a", f"fine\n{line}\n"))
    assert message in str(error.value)


def test_real_corpora(captions_file, wikitext_file, polarity_file):
    counts = count_words([captions_file, wikitext_file, polarity_file])
    expected = Counter()
    for path in (captions_file, wikitext_file, polarity_file):
        expected.update(path.read_text(encoding="utf-8").split())
    assert as_dict(counts) == expected
