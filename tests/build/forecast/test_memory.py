"""A limit of the memory of a build, kept by the real process."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from fuse_index.build.forecast import memory
from fuse_index.build.forecast.memory import MemoryLimit, parse_bytes, resident_bytes
from fuse_index.cli.main import main
from fuse_index.errors import OptionError
from fuse_index.words.corpus.counting import DEFAULT_MEMORY

PEAK = """
import runpy, sys
from fuse_index.cli.main import main
code = main(sys.argv[1:])
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.stderr.write(f"PEAK {int(line.split()[1]) * 1024}\\n")
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("text", "size"),
    [("2G", 2 * 10**9), ("500mb", 500 * 10**6), ("1.5GiB", 3 << 29), ("12345", 12345)],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1G", "0", "1X", "G"])
def test_sizes_that_are_none(text):
    with pytest.raises(OptionError, match=r"--max-memory .*; expected bytes such as 2G"):
        parse_bytes(text)


def test_too_little_is_refused_with_what_is_needed():
    least = resident_bytes() + (384 << 20)
    with pytest.raises(
        OptionError, match=r"--max-memory 100M; expected at least [\d,]+M for count"
    ):
        MemoryLimit(10**8).engine()
    share = MemoryLimit(least + (10 << 20)).engine()
    assert 128 << 20 <= share <= (128 << 20) + (12 << 20)
    assert MemoryLimit(None).engine() == DEFAULT_MEMORY
    with pytest.raises(OptionError, match="for building the word index"):
        MemoryLimit(resident_bytes() + 10**6).require(10**9, "building the word index")


def test_a_flag_that_is_no_size(capsys, tmp_path, captions_file):
    arguments = ["build", "a", "b", "-c", str(captions_file), "-o", str(tmp_path / "b")]
    assert main([*arguments, "--max-memory", "lots"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_counting_in_memory_ends_at_the_limit():
    limit = MemoryLimit(resident_bytes() + (100 << 20))
    limit.require_sorted(1000, lowercase=False, remedy="")
    message = r"at least [\d,]+M for counting 3,000,000 words and more; count less, raise it, or"
    with pytest.raises(OptionError, match=message):
        limit.require_sorted(3_000_000, lowercase=False, remedy="count less, ")
    MemoryLimit(None).require_sorted(10**12, lowercase=True, remedy="")
    with pytest.raises(OptionError, match="for tokenizing words"):
        limit.require_tokenized(10**9)


def test_the_engine_counts_small_texts_too_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 10**9)
    assert MemoryLimit(2 * 10**9).prefers_engine(30 << 20)
    assert not MemoryLimit(2 * 10**9).prefers_engine(10 << 20)
    assert not MemoryLimit(10**9 + (300 << 20)).prefers_engine(30 << 20)  # too little for it, too
    assert not MemoryLimit(None).prefers_engine(10**12)


@pytest.mark.parametrize("engine", [False, True])
def test_a_build_under_a_limit_with_and_without_the_engine(capsys, tmp_path, monkeypatch, engine):
    """Memory as it would be after more words than fit: the engine counts them, or it ends."""
    if engine:
        pytest.importorskip("duckdb")
    else:
        monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.setattr(memory, "_COUNTED", 10**8)
    monkeypatch.setattr(memory, "_SORTED", (2 * 10**9, 2 * 10**9))
    text = tmp_path / "text.txt"
    text.write_text("a red circle above a blue square\n" * 3, encoding="ascii")
    arguments = ["build", "demo:lm", "demo:sentiment", "-c", str(text), "-o", str(tmp_path / "b")]
    code = main([*arguments, "--max-memory", "8G"])
    error = capsys.readouterr().err
    if engine:
        assert code == 0
    else:
        assert code == 2
        assert error.count("\n") == 1
        assert "--max-memory 8,000M; expected at least" in error
        assert "pip install 'fuse-index[scale]' to count on the disk, raise it, or" in error
        assert not (tmp_path / "b").exists()


WITHOUT_ENGINE = "import sys; sys.modules['duckdb'] = None\n" + PEAK


@pytest.mark.slow
@pytest.mark.parametrize("limit", [800, 1100, 2000])
def test_without_the_engine_a_build_keeps_to_its_limit_or_refuses(tmp_path, limit):
    rng = random.Random(0)
    text = tmp_path / "text.txt"
    with text.open("w", encoding="ascii") as stream:
        for _ in range(130):
            stream.write(" ".join(f"{rng.getrandbits(20):x}" for _ in range(100_000)) + "\n")
    assert text.stat().st_size > 64 << 20
    arguments = ["build", "demo:lm", "demo:sentiment", "-c", str(text), "--no-groups"]
    arguments += ["--max-words", "20000", "--max-tokens", "8", "-o", str(tmp_path / "b")]
    command = [sys.executable, "-c", WITHOUT_ENGINE, *arguments, "--max-memory", f"{limit}M"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == (2 if limit == 800 else 0)
    assert int(done.stderr.rpartition("PEAK ")[2]) < limit * 10**6


@pytest.mark.slow
def test_a_large_build_keeps_to_its_limit(tmp_path, gpt2_dir, minilm_dir):
    """600,000 words; as Python objects, with their tokens, they would take more than a gigabyte."""
    pytest.importorskip("duckdb")
    text = tmp_path / "text.txt"
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er")]
    with text.open("w", encoding="ascii") as stream:
        for first in syllables:
            for second in syllables:
                words = [first + second + third for third in syllables]
                stream.write(" ".join(words * 15) + "\n")
    assert text.stat().st_size > 64 << 20
    arguments = ["build", str(gpt2_dir), str(minilm_dir), "-c", str(text), "--no-groups"]
    arguments += ["-o", str(tmp_path / "b"), "--max-memory", "1400M", "--json"]
    command = [sys.executable, "-c", PEAK, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    words = json.loads(done.stdout)["words"]
    peak = int(done.stderr.rpartition("PEAK ")[2])
    assert words > 500_000
    assert peak < 1400 * 10**6
