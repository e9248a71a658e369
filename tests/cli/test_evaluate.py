"""``fuse-index evaluate``."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fuse_index.cli.main import main
from fuse_index.demo import DemoModel, Split, draw, make_scene, make_sentences, model_name
from fuse_index.evaluate import BootstrapOptions, mean_score
from tests.evaluate.captions import hide_java, needs_java, require_metrics, shorten_paraphrases

ROOT = Path(__file__).parents[2]
IMAGES = 4
PURE = ["--metric", "bleu", "--metric", "rouge", "--metric", "cider", "--tokenizer", "plain"]


@pytest.fixture(autouse=True)
def _metrics():
    require_metrics()


@pytest.fixture
def files(tmp_path) -> tuple[str, str]:
    """Predictions and references of four demo scenes; the first prediction is a reference."""
    scenes = [make_scene(Split.TEST, index) for index in range(IMAGES)]
    texts = [[s.text for s in make_sentences(scene, 4, seed=0)] for scene in scenes]
    predictions = [{"image_id": i, "caption": t[3]} for i, t in enumerate(texts)]
    predictions[0]["caption"] = texts[0][0].upper() + "!"
    annotations = [{"image_id": i, "caption": c} for i, t in enumerate(texts) for c in t[:3]]
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(IMAGES)]
    (tmp_path / "pictures").mkdir()
    for index, scene in enumerate(scenes):
        draw(scene).save(tmp_path / "pictures" / f"{index}.png")
    paths = tmp_path / "predictions.json", tmp_path / "references.json"
    paths[0].write_text(json.dumps(predictions))
    paths[1].write_text(json.dumps({"images": images, "annotations": annotations}))
    return str(paths[0]), str(paths[1])


def edit(path: str, change: Any) -> None:
    value = json.loads(Path(path).read_text())
    change(value)
    Path(path).write_text(json.dumps(value))


def test_json(files, capsys):
    assert main(["evaluate", *files, *PURE, "--json", "--resamples", "50", "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == ""
    assert report["images"] == IMAGES
    assert report["reference_captions"] == 3 * IMAGES
    assert report["tokenization"] == "plain"
    assert report["bootstrap"] == {"resamples": 50, "level": 0.95, "seed": 3}
    assert report["left_out"] == {}
    assert report["clip"] is None
    assert report["versions"]["pycocoevalcap"]
    assert list(report["scores"]) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr", "ROUGE-L"]
    for score in report["scores"].values():
        assert score["low"] <= score["value"] <= score["high"]
        assert score["low"] < score["high"]
    assert main(["evaluate", *files, *PURE, "--json", "--resamples", "50", "--seed", "3"]) == 0
    assert capsys.readouterr().out == out


def test_table(files, capsys):
    assert main(["evaluate", *files, *PURE, "--resamples", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "4 images, 12 references, plain tokens (not COCO's: figures differ a little)"
    )
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["metric"] == ["value", "95", "%", "interval"]
    assert 0 < float(rows["ROUGE-L"][0]) < 1
    low, to, high = rows["ROUGE-L"][1:]
    assert to == "to"
    assert float(low) <= float(rows["ROUGE-L"][0]) <= float(high)


def test_csv_has_every_image_and_the_table_is_its_mean(files, tmp_path, capsys):
    path = tmp_path / "scores.csv"
    assert main(["evaluate", *files, *PURE, "--json", "--csv", str(path)]) == 0
    out, err = capsys.readouterr()
    assert f"scores of every image: {path}" in " ".join(err.split())
    report = json.loads(out)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["caption"] == json.loads(Path(files[0]).read_text())[0]["caption"]
    assert float(rows[0]["ROUGE-L"]) == 1.0
    for name in ("ROUGE-L", "CIDEr"):
        score = mean_score(name, [float(row[name]) for row in rows])
        assert score.value == pytest.approx(report["scores"][name]["value"])
        interval = score.interval(BootstrapOptions())
        assert interval.low == pytest.approx(report["scores"][name]["low"])


@needs_java
def test_everything_that_is_there_by_default(files, tmp_path, monkeypatch, capsys):
    shorten_paraphrases(monkeypatch, tmp_path / "meteor")
    assert main(["evaluate", *files, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokenization"] == "ptb"
    assert 0 < report["scores"]["METEOR"]["value"] < 1
    assert report["scores"]["METEOR"]["low"] is None
    assert ("SPICE" in report["scores"]) is ("spice" not in report["left_out"])


def test_without_java_the_rest_is_scored(files, tmp_path, monkeypatch, capsys):
    hide_java(monkeypatch, tmp_path)
    assert main(["evaluate", *files]) == 0
    out, err = capsys.readouterr()
    assert "plain tokens (not COCO's" in out
    assert "CIDEr" in out
    assert "METEOR needs Java, and there is no 'java' on the PATH" in " ".join(out.split())
    assert "SPICE needs Java" in " ".join(out.split())
    assert err.splitlines() == [
        "fuse-index: warning: the PTB tokenizer needs Java, and there is no 'java' on the PATH; "
        "the plain tokenizer is used instead"
    ]


def test_what_was_asked_for_and_is_missing_is_code_2_with_the_rest(
    files, tmp_path, monkeypatch, capsys
):
    hide_java(monkeypatch, tmp_path)
    arguments = ["evaluate", *files, "--metric", "meteor", "--metric", "rouge", "--json", "--quiet"]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert list(report["scores"]) == ["ROUGE-L"]
    assert list(report["left_out"]) == ["meteor"]
    assert err.startswith("fuse-index: error: left out: METEOR needs Java")
    assert err.count("\n") == 1


def test_nothing_that_can_be_computed_is_an_error(files, tmp_path, monkeypatch, capsys):
    hide_java(monkeypatch, tmp_path)
    assert main(["evaluate", *files, "--metric", "spice", "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fuse-index: error: no metric can be computed: SPICE needs Java")


def test_without_the_extra_it_says_what_to_install(files, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.startswith("pycocoevalcap"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    assert main(["evaluate", *files, "--quiet"]) == 2
    assert "pip install 'fuse-index[metrics]'" in capsys.readouterr().err


def clip_options(files: tuple[str, str]) -> list[str]:
    folder = Path(files[0]).parent / "pictures"
    return ["--images", str(folder), "--clip", model_name(DemoModel.CLIP), "--device", "cpu"]


def test_clipscore(files, capsys):
    options = [*clip_options(files), "--clip-prompt", "", "--batch-size", "3"]
    assert main(["evaluate", *files, "--metric", "clipscore", *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokenization"] is None
    assert report["clip"] == {"model": model_name(DemoModel.CLIP), "prompt": ""}
    assert list(report["scores"]) == ["CLIPScore", "RefCLIPScore"]
    right = report["scores"]["CLIPScore"]["value"]

    def shift(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["image_id"] = (row["image_id"] + 1) % IMAGES

    edit(files[0], shift)
    assert main(["evaluate", *files, "--metric", "clipscore", *options, "--json"]) == 0
    wrong = json.loads(capsys.readouterr().out)["scores"]["CLIPScore"]["value"]
    assert right > wrong + 0.2


def test_clipscore_joins_the_others_by_its_options(files, tmp_path, monkeypatch, capsys):
    hide_java(monkeypatch, tmp_path)
    assert main(["evaluate", *files, *clip_options(files), "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"CIDEr", "CLIPScore", "RefCLIPScore"} < set(report["scores"])


def test_pictures_that_are_missing_or_damaged_lose_their_own_score_only(files, capsys, tmp_path):
    options = clip_options(files)
    (Path(options[1]) / "2.png").unlink()
    (Path(options[1]) / "1.png").write_bytes(b"\x89PNG no more")
    table = tmp_path / "t.csv"
    options += ["--metric", "clipscore", "--csv", str(table), "--json"]
    assert main(["evaluate", *files, *options]) == 0
    out, err = capsys.readouterr()
    notes = json.loads(out)["notes"]
    assert "2.png' of image 2 does not exist; images without a picture: 1" in notes[0]
    assert "image 1: " in notes[1]
    assert "1.png' cannot be read as an image" in notes[1]
    assert err.count("fuse-index: warning: ") == 2
    rows = list(csv.DictReader(table.open(newline="")))
    assert [row["CLIPScore"] == "nan" for row in rows] == [False, True, True, False]
    assert [row["RefCLIPScore"] == "nan" for row in rows] == [False, True, True, False]
    for name in ("0.png", "3.png"):
        (Path(options[1]) / name).unlink()
    assert main(["evaluate", *files, *options]) == 2


def test_split_files_are_read_and_a_sentiment_is_taken(files, capsys):
    data = json.loads(Path(files[1]).read_text())
    images = []
    for image in data["images"]:
        own = [row for row in data["annotations"] if row["image_id"] == image["id"]]
        sentences = [{"raw": row["caption"], "sentiment": i % 2} for i, row in enumerate(own)]
        name = {"filename": image["file_name"], "imgid": image["id"]}
        images.append({**name, "split": "test" if image["id"] else "val", "sentences": sentences})
    Path(files[1]).write_text(json.dumps({"images": images, "dataset": "demo"}))
    command = ["evaluate", *files, *PURE, "--json"]
    for options, count, references in (
        ([], 3, 9),
        (["--split", "all", "--sentiment", "negative"], 4, 8),
        (["--split", "val", "--sentiment", "positive"], 1, 1),
    ):
        assert main([*command, *options]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["images"], report["reference_captions"]) == (count, references)
    assert main([*command, "--split", "train"]) == 2
    assert "expected one of test, val, all" in capsys.readouterr().err
    assert main([*command, "--sentiment", "merry"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "blue"], "--metric blue; expected one of bleu, meteor, rouge, cider, spice"),
        (["--tokenizer", "word"], "--tokenizer word; expected one of ptb, plain"),
        (["--metric", "clipscore"], "expected --images FOLDER and --clip MODEL with it"),
        (["--images", "x"], "--images without --clip; expected both"),
        (["--clip", "x"], "--clip without --images; expected both"),
        (["--clip", "x", "--images", "y", "--metric", "bleu"], "expected --metric clipscore, or"),
        (["--resamples", "0"], "resamples=0; expected at least 1"),
        (["--csv", "none/scores.csv"], "--csv none/scores.csv; expected a file in a folder that"),
        (["--resamples", "x"], "(see 'fuse-index evaluate --help')"),
    ],
)
def test_bad_options_are_one_line_and_code_2(files, capsys, options, message):
    assert main(["evaluate", *files, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fuse-index: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        (0, lambda rows: rows.pop(), "no prediction for 1 of 4 images"),
        (0, lambda rows: rows[1].update(image_id=9), "no prediction for 1 of 4 images"),
        (
            0,
            lambda rows: [row.update(image_id=str(row["image_id"])) for row in rows],
            "ids are text in the predictions",
        ),
        (0, lambda rows: rows[2].update(caption=" "), "entry 2 has an empty caption"),
        (0, lambda rows: rows[2].update(caption=None), "entry 2 has caption null"),
        (1, lambda data: data.pop("images"), "'images' is missing"),
        (1, lambda data: data["annotations"].clear(), "no predicted image has a caption"),
    ],
)
def test_bad_files_are_one_line_and_code_2(files, capsys, which, change, message):
    edit(files[which], change)
    assert main(["evaluate", *files]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_what_does_not_fit_is_named_and_the_rest_is_scored(files, capsys):
    edit(files[0], lambda rows: rows.append({**rows[0], "caption": "again"}))
    edit(files[1], lambda data: data["images"].append({"id": 77}))
    edit(files[1], lambda data: data["annotations"].append({"image_id": 78, "caption": "x"}))
    assert main(["evaluate", *files, *PURE, "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["images"], report["reference_captions"]) == (IMAGES, 3 * IMAGES)
    assert len(report["notes"]) == err.count("fuse-index: warning: ") == 3
    assert "image without a caption: 1 (first: 77)" in " ".join(report["notes"])


def test_files_that_are_no_json_or_swapped(files, tmp_path, capsys):
    (tmp_path / "broken.json").write_text("[{")
    for arguments, message in [
        ([str(tmp_path / "broken.json"), files[1]], "broken.json is not JSON"),
        ([str(tmp_path / "none.json"), files[1]], "none.json cannot be read (No such file"),
        ([files[1], files[0]], "predictions come first, references second"),
    ]:
        assert main(["evaluate", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_only_predicted_images(files, capsys):
    edit(files[0], lambda rows: rows.pop())
    assert main(["evaluate", *files, *PURE, "--predicted-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == IMAGES - 1


def test_control_characters_of_files_do_not_reach_the_terminal(files, capsys):
    edit(files[0], lambda rows: rows[0].update(image_id="\x1b[2J"))
    assert main(["evaluate", *files]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_text_metrics_need_no_torch(files):
    code = (
        "import sys; from fuse_index.cli.main import main\n"
        f"code = main(['evaluate', *{files!r}, *{PURE!r}])\n"
        "assert code == 0 and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
