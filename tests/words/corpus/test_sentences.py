"""Sentences of text and of captions in JSON."""

from __future__ import annotations

import gzip
import json

import pytest

from fuse_index.errors import CorpusError
from fuse_index.words.corpus import sentences
from fuse_index.words.corpus.sentences import MOST_WORDS, read_sentences


def test_lines_are_sentences_and_running_text_is_cut(tmp_path):
    prose = "A first sentence. " * 12 + "And the last one!"
    text = f"a red  star\n\na red star\n12 34\n{prose}\n" + "word " * (MOST_WORDS + 1)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = read_sentences([tmp_path / "a.txt"])
    assert found == ["a red star", "A first sentence.", "And the last one!"]


@pytest.mark.parametrize(
    "value",
    [
        {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": t} for t in ("x", "y")]},
        [{"image_id": 7, "caption": "x"}, {"image_id": 8, "caption": "y"}],
        {"images": [{"filename": "f", "sentences": [{"raw": "x", "tokens": ["z"]}, {"raw": "y"}]}]},
        {"one.jpg": ["x"], "two.jpg": ["y"]},
        {"one.jpg": "x", "two.jpg": "y"},
        ["x", "y"],
    ],
)
def test_captions_in_json(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps(value), encoding="utf-8")
    assert read_sentences([tmp_path / "a.json"]) == ["x", "y"]


def test_json_lines_gzip_and_folders(tmp_path):
    lines = "".join(json.dumps({"caption": text}) + "\n\n" for text in ("x", "y"))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'["z", "x"]'))
    assert read_sentences([tmp_path]) == ["x", "y", "z"]


def test_a_line_without_end_is_not_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "_ONE_LINE", 100)
    (tmp_path / "a.txt").write_text("one red star. " * 200_000, encoding="utf-8")
    assert "one red star." in read_sentences([tmp_path / "a.txt"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "a.json is not JSON"),
        ("a.json", "[" * 100_000, "a.json is not JSON"),
        ("a.jsonl", '"x"\n{', "a.jsonl, line 2 is not JSON"),
        ("a.txt", "\n12\n", "no sentence; expected lines, or captions in JSON, of letters and at"),
        ("a.json", '["\\ud800"]', "no sentence"),
    ],
)
def test_mistakes(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        read_sentences([tmp_path / name])
