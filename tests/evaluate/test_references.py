"""Reference captions in every layout, and what is told where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fuse_index.errors import CorpusError, OptionError
from fuse_index.evaluate.diversity import measure_diversity
from fuse_index.evaluate.references import Polarity, read_references

KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014",
            "filename": "COCO_val2014_000000391895.jpg",
            "cocoid": 391895,
            "imgid": 0,
            "split": "test",
            "sentids": [7],
            "sentences": [{"raw": "A man rides.", "tokens": ["a", "man", "rides"], "sentid": 7}],
        },
        {
            "filename": "COCO_val2014_000000000042.jpg",
            "imgid": 1,
            "split": "test",
            "sentences": [{"tokens": ["a", "dog"]}, {"raw": " "}],
        },
        {"filename": "x.jpg", "imgid": 2, "split": "val", "sentences": [{"raw": "A cat."}]},
    ],
}
SENTICAP = {
    "images": [
        {
            "filename": "COCO_val2014_000000000009.jpg",
            "split": "test",
            "sentences": [
                {"raw": "a lovely dog", "tokens": [], "word_sentiment": [0, 1, 1], "sentiment": 1},
                {"raw": "an ugly dog", "sentiment": 0},
            ],
        },
        {"filename": "b.jpg", "split": "test", "sentences": [{"raw": "bad", "sentiment": 0}]},
    ]
}


def written(folder: Path, value: Any, name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_karpathys_split_file(tmp_path):
    told: list[str] = []
    path = written(tmp_path, KARPATHY)
    found = read_references(path, tell=told.append)
    assert found.captions == {391895: ["A man rides."], 42: ["a dog"]}
    assert found.files[391895] == "val2014/COCO_val2014_000000391895.jpg"
    assert found.split == "test"
    assert told == [f"{path}: left out, sentence without a word: 1 (first: image 1, id 42)"]
    assert read_references(path, split="val").captions == {2: ["A cat."]}
    assert list(read_references(path, split="all").captions) == [391895, 42, 2]
    with pytest.raises(OptionError, match=r"split 'train' of .*; expected one of test, val, all"):
        read_references(path, split="train")


def test_senticaps_sentences_by_sentiment(tmp_path):
    path = written(tmp_path, SENTICAP)
    positive = read_references(path, sentiment=Polarity.POSITIVE)
    assert positive.captions == {9: ["a lovely dog"]}
    negative = read_references(path, sentiment=Polarity.NEGATIVE)
    assert negative.captions == {9: ["an ugly dog"], "b.jpg": ["bad"]}
    assert len(read_references(path).captions[9]) == 2
    with pytest.raises(CorpusError, match="a sentence with sentiment None; expected 0 or 1"):
        read_references(written(tmp_path, KARPATHY), sentiment=Polarity.POSITIVE)


def test_an_image_listed_twice_is_told(tmp_path):
    told: list[str] = []
    twice = {"images": [*SENTICAP["images"], SENTICAP["images"][0]]}
    path = written(tmp_path, twice)
    assert len(read_references(path, tell=told.append).captions) == 2
    assert told == [f"{path}: left out, image listed a second time: 1 (first: image 2, id 9)"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"1.jpg": ["a dog, brown", "dog"], "2.jpg": "a cat"}'),
        ("a.token", "1.jpg#0\ta dog, brown\n1.jpg#1\tdog\n\n2.jpg#0\ta cat\n"),
        ("a.csv", 'image,caption\n1.jpg,"a dog, brown"\n1.jpg,dog\n2.jpg,a cat\n'),
        (
            "a.csv",
            "image_name| comment_number| comment\n1.jpg| 0| a dog, brown\n1.jpg| 1| dog\n"
            "2.jpg| 0| a cat\n",
        ),
        ("a.tsv", "image\tcaption\n1.jpg\ta dog, brown\n1.jpg\tdog\n2.jpg\ta cat\n"),
        ("a.txt", "1.jpg,a dog, brown\n1.jpg,dog\n2.jpg,a cat\n"),
    ],
)
def test_captions_by_file_name(tmp_path, name, content):
    found = read_references(written(tmp_path, content, name))
    assert found.captions == {"1.jpg": ["a dog, brown", "dog"], "2.jpg": ["a cat"]}
    assert found.files == {"1.jpg": "1.jpg", "2.jpg": "2.jpg"}


def test_lines_that_do_not_fit_are_told(tmp_path):
    """Flickr30k's table has a line without its last bar."""
    told: list[str] = []
    text = (
        "image_name| comment_number| comment\n1.jpg| 0| a dog\n2.jpg| 4   a dog runs\n1.jpg| 1|\n"
    )
    path = written(tmp_path, text, "results.csv")
    assert read_references(path, tell=told.append).captions == {"1.jpg": ["a dog"]}
    assert told == [f"{path}: left out, line that is no caption of an image: 2 (first: line 3)"]


def test_a_name_that_stands_twice_is_told(tmp_path):
    told: list[str] = []
    path = written(tmp_path, '{"1.jpg": ["a"], "1.jpg": ["b"]}')
    assert read_references(path, tell=told.append).captions == {"1.jpg": ["b"]}
    assert told == [f"{path}: '1.jpg' stands twice in one object; the last one counts"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", {"1.jpg": 3}, "'1.jpg' holds a JSON number; expected captions by file name"),
        ("a.json", {"1.jpg": [" "]}, "'1.jpg' has caption ' '"),
        ("a.json", {"1.jpg": ["\ud800"]}, "'1.jpg' has caption"),
        ("a.json", {"images": [{"sentences": []}]}, "image 0 has no 'filename'; expected a split"),
        ("a.json", {"images": [{"filename": "a", "sentences": 3}]}, "image 0 has sentences 3"),
        ("a.txt", "", "has no captions"),
        ("a.txt", "nothing here", "has no captions"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    with pytest.raises(CorpusError) as caught:
        read_references(written(tmp_path, content, name))
    assert message in str(caught.value)


def test_what_a_file_does_not_state_cannot_be_chosen(tmp_path):
    path = written(tmp_path, {"1.jpg": ["a"]})
    with pytest.raises(OptionError, match=r"split 'test' of .*, which states none"):
        read_references(path, split="test")
    with pytest.raises(OptionError, match=r"sentiment 'positive' of .*, which states none"):
        read_references(path, sentiment=Polarity.POSITIVE)
    with pytest.raises(CorpusError, match="cannot be read"):
        read_references(tmp_path / "none.txt")


def test_diversity_by_hand():
    found = measure_diversity(["A dog runs.", "a dog runs", "a cat"])
    assert (found.vocabulary, found.words) == (4, 8)
    assert found.distinct_1 == 4 / 8
    assert found.distinct_2 == 3 / 5
    assert found.captions == pytest.approx(2 / 3)
