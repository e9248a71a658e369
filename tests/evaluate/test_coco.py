"""Files in COCO's formats: what is read, and one clear line for everything that is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import CorpusError, FuseIndexError, ImageError
from fuse_index.evaluate.coco import image_paths, pair, read_predictions
from fuse_index.evaluate.references import read_references

PREDICTIONS = [{"image_id": 2, "caption": "a cat"}, {"image_id": 1, "caption": "a dog"}]
REFERENCES = {
    "info": {"year": 2014},
    "images": [{"id": 1, "file_name": "one.png", "width": 3}, {"id": 2, "file_name": "two.png"}],
    "annotations": [
        {"id": 10, "image_id": 1, "caption": "the dog"},
        {"id": 11, "image_id": 2, "caption": "the cat"},
        {"id": 12, "image_id": 1, "caption": "one dog"},
    ],
}


def written(folder: Path, value: Any, name: str = "file.json") -> Path:
    path = folder / name
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def references(folder: Path, **changes: Any) -> Path:
    return written(folder, {**REFERENCES, **changes}, "references.json")


def test_predictions_and_references_are_paired_by_id(tmp_path):
    predictions = read_predictions(written(tmp_path, PREDICTIONS))
    known = read_references(references(tmp_path))
    pairs = pair(predictions, known)
    assert pairs.ids == [1, 2]
    assert pairs.candidates == ["a dog", "a cat"]
    assert pairs.references == [["the dog", "one dog"], ["the cat"]]
    assert known.files == {1: "one.png", 2: "two.png"}


def test_only_predicted_images_where_that_is_asked_for(tmp_path):
    known = read_references(references(tmp_path))
    pairs = pair({2: "a cat"}, known, predicted_only=True)
    assert (pairs.ids, pairs.references) == ([2], [["the cat"]])
    bare = read_references(references(tmp_path, annotations=REFERENCES["annotations"][1:2]))
    assert pair({2: "a cat"}, bare, predicted_only=True).ids == [2]


def test_ids_may_be_text_and_files_may_begin_with_a_byte_order_mark(tmp_path):
    rows = [{"image_id": "a", "caption": "é"}]
    path = written(tmp_path, b"\xef\xbb\xbf" + json.dumps(rows, ensure_ascii=False).encode())
    assert read_predictions(path) == {"a": "é"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON (Expecting value"),
        (b"[{]", "is not JSON (Expecting property name"),
        (b"\xff\xfe[]", "is not JSON ('utf-8' codec can't decode"),
        (b"[" * 100_000, "is not JSON (nested too deeply)"),
        ([], "has no predictions; expected a COCO results file"),
        ({"a": 1}, "holds a JSON object; expected a COCO results file"),
        (REFERENCES, "predictions come first, references second"),
        (3, "holds a JSON number; expected"),
        ([1], "entry 0 is a JSON number; expected a COCO results file"),
        ([{"caption": "a"}], "entry 0 has no 'image_id'; expected"),
        ([{"image_id": 1.5, "caption": "a"}], "entry 0 has image_id 1.5; expected a whole number"),
        ([{"image_id": True, "caption": "a"}], "entry 0 has image_id true; expected a whole"),
        ([{"image_id": None, "caption": "a"}], "entry 0 has image_id null; expected a whole"),
        ([{"image_id": 1}], "entry 0 has no 'caption'; expected"),
        ([{"image_id": 1, "caption": ["a"]}], 'entry 0 has caption ["a"]; expected'),
        ([{"image_id": 1, "caption": " \n"}], "entry 0 has an empty caption; expected a caption"),
        ([{"image_id": 1, "caption": "\ud800"}], "entry 0 has a lone surrogate in its caption"),
        ([{"image_id": "\ud800", "caption": "a"}], "entry 0 has a lone surrogate in its image_id"),
    ],
)
def test_bad_predictions(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(CorpusError) as caught:
        read_predictions(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "'images' is missing; expected a COCO annotations file"),
        ({"images": []}, "has no images; expected a COCO annotations file"),
        ({"images": {}}, "'images' holds a JSON object; expected"),
        ({"images": [{"file_name": "a"}]}, "image 0 has no 'id'"),
        ({"images": [{"id": 1, "file_name": 3}]}, "image 0 has file_name 3; expected text"),
        ({"annotations": None}, "'annotations' is missing"),
        ({"annotations": ["a"]}, "'annotations': entry 0 is a JSON text"),
        ({"annotations": [{"image_id": 1, "caption": ""}]}, "annotation 0 has an empty caption"),
        ({"annotations": [{"image_id": 1}]}, "annotation 0 has no 'caption'"),
    ],
)
def test_bad_references(tmp_path, changes, message):
    with pytest.raises(CorpusError) as caught:
        read_references(references(tmp_path, **changes))
    assert message in str(caught.value)


def test_swapped_or_missing_files(tmp_path):
    with pytest.raises(
        CorpusError, match=r"holds a JSON list; .*predictions come first, references"
    ):
        read_references(written(tmp_path, PREDICTIONS))
    with pytest.raises(CorpusError, match=r"none\.json cannot be read \(No such file"):
        read_predictions(tmp_path / "none.json")
    with pytest.raises(CorpusError, match=r"cannot be read \(Is a directory\)"):
        read_references(tmp_path)


def test_ids_that_do_not_meet(tmp_path):
    known = read_references(references(tmp_path))
    path = known.path
    cases = [
        ({1: "a"}, f"no prediction for 1 of 2 images of {path} (first: 2); expected one pred"),
        ({7: "c"}, f"predicted image 7 is not in {path}; expected predictions"),
        ({8: "a", 9: "b"}, f"2 predicted images (first: 8) are not in {path}"),
        ({"1": "a"}, "ids are text in the predictions and numbers in the references"),
    ]
    for predictions, message in cases:
        with pytest.raises(CorpusError) as caught:
            pair(predictions, known)
        assert message in str(caught.value)
    bare = read_references(references(tmp_path, annotations=REFERENCES["annotations"][:1]))
    with pytest.raises(CorpusError, match="no predicted image has a caption in"):
        pair({2: "b"}, bare, predicted_only=True)


def test_what_does_not_fit_is_told_and_the_rest_is_kept(tmp_path):
    told: list[str] = []
    rows = [*PREDICTIONS, {"image_id": 2, "caption": "again"}, {"image_id": 7, "caption": "x"}]
    predictions = read_predictions(written(tmp_path, rows), tell=told.append)
    assert predictions == {2: "a cat", 1: "a dog", 7: "x"}
    images = [*REFERENCES["images"], {"id": 1}, {"id": 5}]
    annotations = [*REFERENCES["annotations"], *({"image_id": i, "caption": "a"} for i in (3, 4))]
    path = references(tmp_path, images=images, annotations=annotations)
    known = read_references(path, tell=told.append)
    pairs = pair(predictions, known, tell=told.append)
    assert (pairs.ids, pairs.candidates) == ([1, 2], ["a dog", "a cat"])
    assert pairs.references == [["the dog", "one dog"], ["the cat"]]
    place = tmp_path / "file.json"
    assert told == [
        f"{place}: entry 2 is a second caption of image 2; the first of each image counts, "
        "left out: 1",
        f"{path}: left out, image listed a second time: 1 (first: image 2, id 1)",
        f"{path}: left out, annotation of an image that is not listed: 2 "
        "(first: annotation 3, image 3)",
        f"predicted image 7 is not in {path}: left out",
        f"{path}: left out, image without a caption: 1 (first: 5)",
    ]


def test_the_order_of_a_file_changes_no_pair(tmp_path):
    predictions = {1: "a dog", 2: "a cat"}
    straight = pair(predictions, read_references(references(tmp_path)))
    turned = {key: REFERENCES[key][::-1] for key in ("images", "annotations")}
    other = pair(predictions, read_references(references(tmp_path, **turned)))
    assert other.ids == straight.ids[::-1]
    assert [sorted(texts) for texts in other.references[::-1]] == [
        sorted(texts) for texts in straight.references
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["image_id", "caption", "images", "annotations", "id", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_whatever_json_holds_it_is_read_or_an_error_of_ours(tmp_path_factory, value):
    path = written(tmp_path_factory.mktemp("fuzz"), value)
    for read in (read_predictions, read_references):
        with suppress(FuseIndexError):
            read(path)


def test_pictures_are_found_in_their_folder_only(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("one.png", "sub/two.png"):
        (tmp_path / name).touch()
    images = [{"id": 1, "file_name": "one.png"}, {"id": 2, "file_name": "sub/two.png"}]
    known = read_references(references(tmp_path, images=images))
    assert image_paths(tmp_path, known, [2, 1]) == [tmp_path / "sub/two.png", tmp_path / "one.png"]


def test_an_image_without_a_picture_is_told(tmp_path):
    (tmp_path / "COCO_val2014_1.jpg").touch()
    images = [
        {"id": 1, "file_name": "val2014/COCO_val2014_1.jpg"},
        {"id": 2, "file_name": "no.jpg"},
    ]
    known = read_references(references(tmp_path, images=[*images, {"id": 3}]))
    told: list[str] = []
    paths = image_paths(tmp_path, known, [1, 2, 3], tell=told.append)
    assert paths == [tmp_path / "COCO_val2014_1.jpg", None, None]
    assert told == [
        f"{str(tmp_path / 'no.jpg')!r} of image 2 does not exist; images without a picture: 2"
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.png", "none.png' of image 1 does not exist; expected pictures of the images"),
        ("../one.png", "file_name '../one.png' of image 1; expected a name inside the folder"),
        ("/etc/passwd", "file_name '/etc/passwd' of image 1; expected a name inside"),
        ("a\0b", "expected a name inside the folder"),
        (None, "image 1 has no file_name; expected pictures of the images"),
    ],
)
def test_bad_pictures(tmp_path, name, message):
    image = {"id": 1} if name is None else {"id": 1, "file_name": name}
    known = read_references(references(tmp_path, images=[image], annotations=[]))
    with pytest.raises(ImageError) as caught:
        image_paths(tmp_path, known, [1])
    assert message in str(caught.value)
    with pytest.raises(ImageError, match="nowhere' is not a folder"):
        image_paths(tmp_path / "nowhere", known, [1])
