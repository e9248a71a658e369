"""Words and lines have a longest length, and no more of a text than that is ever held."""

from __future__ import annotations

import gzip
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import CorpusError
from fuse_index.words.corpus import lengths, reading
from fuse_index.words.corpus.lengths import LONGEST_WORD, split_lines, without_long_words
from fuse_index.words.corpus.words import CorpusOptions, count_words, read_texts, read_word_list
from tests.cases import case

SPACES = [chr(code) for code in range(0x110000) if chr(code).isspace()]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that small texts reach."""
    monkeypatch.setattr(lengths, "LONGEST_WORD", 6)
    monkeypatch.setattr(lengths, "_WINDOW", 3)
    monkeypatch.setattr(lengths, "LONGEST_LINE", 9)


def test_white_space_is_that_of_str_split() -> None:
    found = [chr(code) for code in range(0x110000) if lengths._SPACE.match(chr(code))]
    assert found == SPACES


words = st.integers(0, 16).map(lambda length: "abcdefghijklmnop"[:length])
texts = st.lists(st.one_of(words, st.sampled_from([" ", "\n", "\u2003 ", "é"])), max_size=30)


@given(parts=texts, cuts=st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_the_words_are_those_that_are_not_too_long(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    pieces, rest = [], text
    while rest:
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(rest[:size])
        rest = rest[size:]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lengths, "LONGEST_WORD", 6)
        patched.setattr(lengths, "_WINDOW", 3)
        found = list(without_long_words(iter(pieces), "the text"))
    assert "".join(found).split() == [word for word in text.split() if len(word) <= 6]
    assert all(piece[-1].isspace() for piece in found[:-1])


@given(parts=texts, size=st.integers(1, 9))
def test_lines_are_those_of_split_or_none(parts: list[str], size: int) -> None:
    text = "".join(parts)
    pieces = (text[start : start + size] for start in range(0, len(text), size))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lengths, "LONGEST_LINE", 9)
        found = list(split_lines(pieces))
    assert found == [line if len(line) <= 9 else None for line in text.split("\n")]


def test_the_limit_is_exact_wherever_the_word_stands(tmp_path: Path) -> None:
    for before in (0, 1, LONGEST_WORD // 2 - 1, LONGEST_WORD, 3 * LONGEST_WORD + 7):
        for length in (LONGEST_WORD, LONGEST_WORD + 1):
            for chunk in (1 << 20, 1000):
                with case(before=before, length=length, chunk=chunk):
                    text = "a " * (before // 2) + "é" * length + " b"
                    (tmp_path / "a").write_text(text, encoding="utf-8")
                    with pytest.MonkeyPatch.context() as patched:
                        patched.setattr(reading, "_CHUNK_BYTES", chunk)
                        found = count_words([tmp_path / "a"])
                    kept = [w for w, c in Counter(text.split()).items() if len(w) <= LONGEST_WORD]
                    assert sorted(found.words) == sorted(kept)


def test_how_many_were_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a"
    path.write_text(f"a {'x' * 9000} b {'y' * 3_000_000}\n{'z' * 8193} c", encoding="ascii")
    with caplog.at_level(logging.WARNING, logger="fuse_index"):
        assert sorted(count_words([path]).words) == ["a", "b", "c"]
    assert caplog.messages == [f"{path}: 3 words of more than 8192 characters are left out"]
    path.write_text("x" * 10_000, encoding="ascii")
    with pytest.raises(CorpusError, match="the corpus is empty: no word in"):
        count_words([path])


def test_the_engine_leaves_out_the_same_words(tmp_path: Path, short: None) -> None:
    pytest.importorskip("duckdb")
    from tests.words.corpus.test_counting import assert_same, count_on_disk

    path = tmp_path / "a"
    path.write_text("abcdef abcdefg éééééé ééééééé a\u2003" * 40 + "b" * 900, encoding="utf-8")
    expected = count_words([path])
    assert sorted(expected.words) == ["a", "abcdef", "éééééé"]
    for size in (400, 10_000):
        assert_same(count_on_disk([path], tmp_path, CorpusOptions(), size), expected)


def test_lists_of_words_and_texts(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fuse_index.words.corpus.words.LONGEST_WORD", 6)
    path = tmp_path / "a"
    path.write_text("one\nseventh\n" + "x" * 50 + "\ntwo\t7\n", encoding="ascii")
    with caplog.at_level(logging.WARNING, logger="fuse_index"):
        assert dict(zip(*_columns(path), strict=True)) == {"two": 7, "one": 1}
    assert caplog.messages == [f"{path}: 2 words of more than 6 characters are left out"]
    with pytest.raises(CorpusError, match=r"line 3 has more than .* characters; expected one text"):
        read_texts(path)
    path.write_text("one\n\ntwo words\n", encoding="ascii")
    assert read_texts(path) == ["one", "two words"]


def _columns(path: Path) -> tuple[list[str], list[int]]:
    counts = read_word_list(path)
    return list(counts.words), counts.counts[:].tolist()


LIMITED = """
import resource, sys
from pathlib import Path
from fuse_index.errors import CorpusError
from fuse_index.words.corpus.words import count_words, read_texts, read_word_list
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (int(sys.argv[3]) << 20),) * 2)
try:
    found = {"corpus": count_words, "list": read_word_list, "texts": read_texts}[sys.argv[1]](
        [sys.argv[2]] if sys.argv[1] == "corpus" else sys.argv[2]
    )
    print(*getattr(found, "words", found))
except CorpusError as error:
    print(error)
"""


def run_limited(kind: str, path: Path, megabytes: int) -> str:
    command = [sys.executable, "-c", LIMITED, kind, str(path), str(megabytes)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def one_line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line of 200 MB without white space, as gzip stores it."""
    path = tmp_path_factory.mktemp("line") / "line.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b"begin ")
        for _ in range(200):
            stream.write(b"x" * 1_000_000)
        stream.write(b"\nend\n")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_a_line_of_200_megabytes_takes_little_memory(one_line: Path) -> None:
    """The address space of the process may grow by 24 MB in a corpus, by a line's longest else."""
    assert run_limited("corpus", one_line, 24) == "begin end"
    assert run_limited("list", one_line, 96) == "end"
    assert "line 1 has more than 16,777,216 characters" in run_limited("texts", one_line, 96)


def test_so_does_a_long_row_of_parquet(tmp_path: Path) -> None:
    """A batch has fewer rows where they are long: otherwise all of these are one."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [f"w{i} " + "x" * 100_000 for i in range(400)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", compression="zstd")
    del rows
    from fuse_index.words.corpus.reading import find_sources, read_text

    (source,) = find_sources([tmp_path / "a.parquet"])
    pieces = [len(piece) for piece in read_text(source, "utf-8", lambda _: None)]
    assert sum(pieces) == 400 * 100_003 + sum(len(str(i)) for i in range(400))
    assert max(pieces) <= 1 << 20
    assert len(count_words([tmp_path / "a.parquet"])) == 400
