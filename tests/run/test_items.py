"""Items of run files: JSONL, folders of images, and lines that are broken."""

from __future__ import annotations

import pytest

from fuse_index.common.reading import FlagText
from fuse_index.errors import OptionError
from fuse_index.objectives import ImageSimilarity
from fuse_index.run import read_items, read_run
from fuse_index.run.assembly import with_images

PAIRS = '{"target": " a", "prefix": "x"}\n\n{"target": " b"}\n'


def objective(**options):
    run = read_run({"models": {"lm": "gpt2"}, "objectives": {"type": "continuation", **options}})
    return run.objectives[0].objective


@pytest.mark.parametrize("kind", [str, FlagText])
def test_a_file_of_items(tmp_path, kind):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\ufeff" + PAIRS, encoding="utf-8")
    found = objective(items=kind(path), combine="worst")
    assert [part.target for part in found.parts] == [" a", " b"]
    assert found.to_json()["items"] == [{"prefix": "x", "target": " a"}, {"target": " b"}]
    assert [item.place for item in read_items(path)] == [f"{path}, line 1", f"{path}, line 3"]


def test_items_inside_the_file():
    listed = [{"target": " a"}, {"target": " b"}]
    assert objective(items=listed).parts == objective(items=FlagText(str(listed))).parts
    assert len(objective(items=listed).parts) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"target": " a"}\n{"target": " b"\n', "line 2: Expecting ',' delimiter at column 16"),
        ('{"target": " a"}\n[1]\n', "line 2: a list; expected a JSON object"),
        ('{"target": " a"}\n\n{"targt": " b"}\n', "line 3: field 'targt' is unknown"),
        ('{"target": ""}\n', "line 1: target ''; expected a text"),
        ('{"target": 5}\n', r"line 1.target: 5; expected a text"),
        ('{"type": "label", "label": 1}\n', "line 1: an item of type 'label'"),
        ('{"target": "a", "weight": 2}\n', "line 1: weight; expected the fields of one item"),
        ("[" * 100_000 + "\n", "line 1: nested too deeply; expected at most 64 lists"),
        (
            '{"target": " a"}\n{"target": " b", "target": " c"}\n',
            "line 2: key 'target' stands twice",
        ),
        ("\n \n", "no line with an item; expected at least one"),
    ],
)
def test_a_broken_line_is_named(tmp_path, text, said):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=f"pairs.jsonl.*{said}"):
        objective(items=str(path))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(OptionError, match=r"none\.jsonl: No such file"):
        objective(items=str(tmp_path / "none.jsonl"))
    path = tmp_path / "binary.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match=r"binary.jsonl is no UTF-8 text"):
        objective(items=str(path))


def test_folders_of_images_in_items(tmp_path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).touch()
    one = str(tmp_path / "b.png")
    found = with_images(ImageSimilarity(items=[{"images": str(tmp_path)}, {"images": one}]))
    assert [part.images for part in found.parts] == [(str(tmp_path / "a.png"), one), (one,)]
