"""The harness of photographs, on the demo's scenes: it runs, goes on, and loses nothing."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
QUICK = ["--passes", "30", "--metrics", "bleu,cider", "--json"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A set of two scenes; adapters are built once."""
    return tmp_path_factory.mktemp("coco")


@pytest.fixture
def bench(monkeypatch, place, models_once) -> Any:
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(place / "cache"))
    monkeypatch.syspath_prepend(str(TOOLS))
    module = importlib.import_module("bench_coco")
    small = {"type": "autodan", "length": 4, "search_width": 4, "iterations": 1}
    monkeypatch.setitem(module.PAPER, "method", small)
    return module


def run(bench: Any, capsys: Any, *arguments: Any) -> tuple[dict[str, Any], str]:
    bench.main([*map(str, arguments), *QUICK])
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def demo(place: Path, *arguments: Any) -> list[Any]:
    return ["--demo", 2, "--images", place / "set", *arguments]


def test_every_method_and_a_second_run(bench, capsys, place, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    found = place / "found.jsonl"
    command = demo(place, "--found", found)
    report, said = run(bench, capsys, *command)
    rows = {row["case"]: row for row in report["rows"]}
    for name in ("best", "no retrieval", "no gradient", "paper"):
        assert f"{name}: 2 of 2" in said
    for row in rows.values():
        assert (row["images"], row["missing"]) == (2, 0)
        assert row["diversity"]["vocabulary"] > 0
        assert row["perplexity"]["mean"] > 1
        assert row["forward_passes"] > 0
        assert {"BLEU-4", "CIDEr", "CLIPScore", "RefCLIPScore"} < set(row)
    assert {(d["first"], d["second"]) for d in report["differences"]} >= {("best", "no gradient")}
    monkeypatch.setattr(bench, "Captioner", lambda _: pytest.fail("a caption is made again"))
    again, said = run(bench, capsys, *command)
    assert (again["rows"], said) == (report["rows"], "")
    bench.main([*map(str, command), *QUICK[:-1]])
    table = capsys.readouterr().out
    assert "| best | 2 |" in table
    assert "| best | no gradient | CIDEr |" in table


def test_it_goes_on_behind_a_line_that_was_cut(bench, capsys, place, tmp_path):
    command = demo(place, "--methods", "no gradient", "--tasks", "negative")
    command += ["--found", tmp_path / "f.jsonl"]
    first, _ = run(bench, capsys, *command)
    data = (tmp_path / "f.jsonl").read_bytes()
    (tmp_path / "f.jsonl").write_bytes(data[:-9])
    again, said = run(bench, capsys, *command)
    assert said == "no gradient (negative): 2 of 2\n"
    assert 0 <= again["rows"][0]["sentiment"]["mean"] <= 1
    assert again["rows"][0]["captions"] == first["rows"][0]["captions"]
    assert again["told"] == [f"{tmp_path / 'f.jsonl'}: line 2 is no caption, and is made again"]
    run(bench, capsys, *command)
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == 3


def test_what_cannot_be_captioned_is_told_and_the_rest_is_scored(bench, capsys, place, tmp_path):
    """A subset is the same whatever the order; a damaged and a missing picture lose themselves."""
    data = json.loads((place / "set" / "captions.json").read_text())
    data["images"] += [{"id": 7, "file_name": "no.png"}, {"id": 8, "file_name": "bad.png"}]
    data["annotations"] += [{"image_id": image, "caption": "a star"} for image in (7, 8, 9)]
    pictures = place / "set" / "val"
    (pictures / "bad.png").write_bytes(b"no picture")
    orders = []
    for step in (1, -1):
        turned = {key: data[key][::step] for key in ("images", "annotations")}
        (tmp_path / "refs.json").write_text(json.dumps(turned))
        options = ["--references", tmp_path / "refs.json", "--methods", "no gradient"]
        report, _ = run(bench, capsys, *demo(place, *options))
        orders.append(report["rows"][0])
        told = "\n".join(report["told"])
        assert "no.png' of image 7 does not exist; images without a picture: 1" in told
        assert "annotation of an image that is not listed: 1" in told
        assert "no gradient: image 8 has no caption: " in told
        assert (orders[-1]["images"], orders[-1]["missing"]) == (2, 1)
    (pictures / "bad.png").unlink()
    assert orders[0]["captions"] == orders[1]["captions"]
    assert orders[0]["CIDEr"]["mean"] == pytest.approx(orders[1]["CIDEr"]["mean"])


def test_a_folder_without_references_has_no_metric_of_them(bench, capsys, place):
    run(bench, capsys, *demo(place, "--methods", "no gradient"))  # writes the pictures
    models = ["--lm", "demo:lm", "--clip", "demo:clip", "--images", place / "set" / "val"]
    (place / "run.yaml").write_text(f"adapters: {{words: {place / 'set' / 'words.txt'}}}\n")
    options = ["--file", place / "run.yaml", "--methods", "no gradient", "--subset", 1]
    report, _ = run(bench, capsys, *models, *options)
    (row,) = report["rows"]
    assert (row["images"], "CLIPScore" in row, "CIDEr" in row) == (1, True, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no pictures; expected --images FOLDER"),
        (["--demo", "1", "--methods", "bset"], "--methods bset; expected one or several of best"),
        (["--demo", "1", "--tasks", "merry"], "--tasks merry; expected one or several of plain"),
        (["--demo", "1", "--metrics", "blue"], "--metrics blue; expected some of bleu"),
    ],
)
def test_mistakes_get_one_line(bench, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        bench.main([*arguments, "--passes", "1"])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
