"""The verb ``caption`` as a user types it: images, folders, tables, mistakes."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

from fuse_index.cli import main as cli
from fuse_index.demo import Split, draw, make_scene, write_vocabulary
from fuse_index.objectives.features import FeatureLoss
from fuse_index.optimize import Moves, auto
from fuse_index.run import EventWriter
from fuse_index.run.captions import IMAGE_WEIGHT, TYPICAL_TOKENS
from tests.report.test_html import assert_stands_alone

MODELS = ["--lm", "demo:lm", "--clip", "demo:clip"]
FEELING = ["--classifier", "demo:sentiment", "--label", "positive"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two pictures and a file that is none."""
    path = tmp_path_factory.mktemp("pictures")
    for index in range(2):
        draw(make_scene(Split.TEST, index)).save(path / f"{index}.png")
    (path / "notes.txt").write_text("no picture", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> list[str]:
    """Flags of a short run."""
    words = write_vocabulary(tmp_path_factory.mktemp("words") / "words.txt")
    flags = ["--adapters.words", str(words), "--steps", "2", "--initial.count", "2"]
    flags += ["--initial.length", "6", "--method", "gcg", "--method.unit", "word"]
    return [*flags, "--method.predictor", "embedding", "--method.search_width", "16"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache(cache, models_once, monkeypatch):
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(cache))


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main(["caption", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_folder_to_json_csv_and_a_file(capsys, folder, quick, tmp_path):
    out, table, events = tmp_path / "o.json", tmp_path / "t.csv", tmp_path / "e.jsonl"
    files = ["--out", out, "--csv", table, "--events", events]
    code, stdout, stderr = run(capsys, folder, *MODELS, *FEELING, *quick, *files, "--json")
    assert (code, stderr) == (0, "")
    captions = json.loads(stdout)["captions"]
    assert [item["image"] for item in captions] == [str(folder / f"{i}.png") for i in range(2)]
    for item in captions:
        assert set(item["losses"]) == {"fluency", "image", "label"}
        weights = {"fluency": 1 / TYPICAL_TOKENS, "image": IMAGE_WEIGHT, "label": 1.0}
        total = sum(weights[name] * value for name, value in item["losses"].items())
        assert item["total"] == pytest.approx(total)
    full = json.loads(out.read_text(encoding="utf-8"))["captions"]
    assert [item["result"]["text"].strip() for item in full] == [c["caption"] for c in captions]
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    assert [row["caption"] for row in rows] == [c["caption"] for c in captions]
    assert [float(row["image"]) for row in rows] == [c["losses"]["image"] for c in captions]
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    ends = [line for line in lines if line["event"] == "end"]
    assert [line["image"] for line in ends] == [c["image"] for c in captions]


def test_a_table_for_people_and_a_run_file(capsys, folder, quick, tmp_path):
    run_file = {"lm": "demo:lm", "clip": {"model": "demo:clip", "weight": 5}, "budget": 1}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run_file), encoding="utf-8")
    code, stdout, stderr = run(capsys, folder / "0.png", "--file", file, *quick)
    assert (code, stderr) == (0, "")
    header, _, row, *_ = stdout.splitlines()
    assert header.split() == ["caption", "image", "total", "fluency", "image"]
    assert "0.png" in row


def test_a_report_for_people(capsys, folder, quick, tmp_path):
    path = tmp_path / "page.html"
    command = [folder, *MODELS, *FEELING, *quick, "--report", path, "--json"]
    code, stdout, stderr = run(capsys, *command)
    assert (code, stderr) == (0, "")
    text = path.read_text(encoding="utf-8")
    found = assert_stands_alone(text)
    captions = [item["caption"] for item in json.loads(stdout)["captions"]]
    alts = [image["alt"] for image in found.all("img")]
    assert alts == [f"The image {i}.png, captioned: {c}" for i, c in enumerate(captions)]
    assert text.count("What each word is worth to each model") == 2
    assert "2 images, captioned by demo:lm, demo:clip and demo:sentiment, label " in text
    assert str(folder) not in text


def test_images_at_once_give_the_same_captions(capsys, folder, quick, tmp_path):
    found = []
    for number in ("1", "2"):
        events = tmp_path / f"{number}.jsonl"
        flags = ["--together", number, "--events", events, "--json"]
        code, stdout, _ = run(capsys, folder, *MODELS, *quick, *flags)
        assert code == 0
        said = json.loads(stdout)
        assert said["throughput"].keys() == {"seconds", "images_per_second", "passes_per_second"}
        assert said["failed"] == []
        for item in said["captions"]:
            del item["spent"]["seconds"]
        found.append(said["captions"])
        lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
        for item in said["captions"]:
            own = [line for line in lines if line["image"] == item["image"]]
            assert [line.get("step", line["event"]) for line in own] == ["start", 0, 1, 2, "end"]
    assert found[0] == found[1]


def test_a_broken_image_stops_no_other_and_is_listed(capsys, folder, quick, tmp_path):
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes((folder / f"{index}.png").read_bytes())
    (tmp_path / "broken.png").write_bytes((folder / "0.png").read_bytes()[:100])
    table = tmp_path / "t.csv"
    code, stdout, stderr = run(capsys, tmp_path, *MODELS, *quick, "--csv", table)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "broken.png' cannot be read as an image" in stderr
    assert "2 images in " in stdout.splitlines()[-1]
    assert len(table.read_text(encoding="utf-8").splitlines()) == 3
    code, stdout, stderr = run(capsys, tmp_path, *MODELS, *quick, "--json")
    said = json.loads(stdout)
    assert code == said["error"]["exit_code"] == 2
    assert said["error"]["type"] == "ImageError"
    assert [Path(item["image"]).name for item in said["result"]["captions"]] == ["0.png", "1.png"]
    (failed,) = said["result"]["failed"]
    assert Path(failed["image"]).name == "broken.png"


def test_captions_begin_from_retrieved_sentences(capsys, folder, quick, tmp_path):
    corpus = tmp_path / "captions.json"
    texts = ["a green disc", "a small blue plus and a large green disc", "a pink star"]
    corpus.write_text(json.dumps([{"image_id": 1, "caption": text} for text in texts]))
    flags = ["--initial.draw", "retrieval", "--initial.corpus", corpus, "--steps", "1"]
    out = tmp_path / "o.json"
    assert run(capsys, folder / "0.png", *MODELS, *quick, *flags, "--out", out)[0] == 0
    (item,) = json.loads(out.read_text(encoding="utf-8"))["captions"]
    initial = item["result"]["configuration"]["initial"]
    assert len(initial) == 2
    code, _, stderr = run(capsys, folder / "0.png", *MODELS, *quick, *flags[:2])
    assert (code, stderr.count("\n")) == (2, 1)
    assert "retrieval without a corpus" in stderr


def test_captions_go_on_from_checkpoints(capsys, folder, quick, tmp_path):
    states = tmp_path / "states"
    command = [folder / "0.png", *MODELS, *quick, "--json"]
    straight = json.loads(run(capsys, *command, "--steps", 3)[1])
    run(capsys, *command, "--steps", 1, "--checkpoint", states)
    assert len(list(states.iterdir())) == 1
    resumed = json.loads(run(capsys, *command, "--steps", 3, "--checkpoint", states)[1])
    for item in (*straight["captions"], *resumed["captions"]):
        del item["spent"]["seconds"]
    del straight["throughput"], resumed["throughput"]
    assert resumed == straight


def test_a_picture_that_was_replaced_does_not_go_on(capsys, quick, tmp_path):
    command = [tmp_path / "p.png", *MODELS, *quick, "--checkpoint", tmp_path / "states"]
    for number, code in ((0, 0), (0, 0), (1, 2)):
        draw(make_scene(Split.TEST, number)).save(tmp_path / "p.png")
        found, _, stderr = run(capsys, *command, "--steps", 1)
        assert found == code
    assert "other contents of the image " in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_done_and_events_stand_once(
    capsys, folder, quick, tmp_path, monkeypatch, number, code
):
    write, stop = EventWriter.__call__, True

    def interrupt(self, of_run, point):
        write(self, of_run, point)
        if stop and point.step == 1 and "1.png" in str(self._common):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(EventWriter, "__call__", interrupt)
    out, events = tmp_path / "o.json", tmp_path / "e.jsonl"
    command = [folder, *MODELS, *quick, "--checkpoint", tmp_path / "states"]
    command += ["--events", events, "--out", out, "--json"]
    found, stdout, stderr = run(capsys, *command)
    assert (found, stderr.count("\n")) == (code, 1)
    kept = json.loads(out.read_text(encoding="utf-8"))["captions"]
    assert [item["stop"] for item in kept] == ["steps", "interrupted"]
    assert len(json.loads(stdout)["captions"]) == 2
    stop = False
    assert run(capsys, *command, "--steps", 3)[0] == 0
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    for name in ("0.png", "1.png"):
        own = [line for line in lines if line["image"].endswith(name)]
        steps = [line.get("step", line["event"]) for line in own]
        assert steps == ["start", 0, 1, 2, 3, "end"]


def test_captions_whose_files_cannot_be_written_are_printed(
    capsys, folder, quick, tmp_path, monkeypatch
):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("fuse_index.common.files.write_atomically", full)
    files = ["--out", tmp_path / "o.json", "--csv", tmp_path / "t.csv"]
    code, stdout, stderr = run(capsys, folder / "0.png", *MODELS, *quick, *files)
    assert (code, stderr.count("\n")) == (2, 2)  # one a file
    assert "--out" in stderr
    assert "--csv" in stderr
    assert '"captions"' in stdout
    assert "image,caption,total" in stdout


def test_what_is_done_is_kept_when_a_model_fails(capsys, folder, quick, tmp_path, monkeypatch):
    finish, calls, limit = FeatureLoss.from_outputs, [], 1 << 30

    def failing(self, outputs):
        calls.append(len(outputs))
        losses = finish(self, outputs)
        return losses if len(calls) <= limit else losses * torch.nan

    monkeypatch.setattr(FeatureLoss, "from_outputs", failing)
    assert run(capsys, folder / "0.png", *MODELS, *quick)[0] == 0
    limit = len(calls) + 1  # the second image's first prompts are scored, and no more
    calls.clear()
    out = tmp_path / "o.json"
    code, stdout, stderr = run(capsys, folder, *MODELS, *quick, "--out", out, "--json")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "is nan for the prompt" in stderr
    kept = json.loads(out.read_text(encoding="utf-8"))["captions"]
    assert [Path(item["image"]).name for item in kept] == ["0.png", "1.png"]
    assert [item["stop"] for item in kept] == ["steps", "failed"]
    said = json.loads(stdout)
    assert said["error"]["type"] == "LossError"
    assert [item["caption"] for item in said["result"]["captions"]] == [
        item["caption"] for item in kept
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0.png}"], "no lm; expected a model, under 'lm' or by --lm"),
        (MODELS, "no image; expected image files, or folders of images"),
        (["{notes.txt}", *MODELS], "cannot be read as an image"),
        (["{no.png}", *MODELS], "does not exist; expected an image file, or a folder of images"),
        (["{0.png}", *MODELS, *FEELING[:2]], "a classifier without a label; expected a label"),
        (["{0.png}", *MODELS, *FEELING[:3], "merry"], "no label 'merry'; expected one of 'neg"),
        (["{0.png}", "--lm", "demo:clip", "--clip", "demo:clip"], "expected kind 'clip'"),
        (["{0.png}", *MODELS, "--lm.prefix", "a red star " * 60], "shorten the prefix or the suf"),
        (["{0.png}", *MODELS, "--csv", "nowhere/t.csv"], "--csv nowhere/t.csv; expected a file"),
        (["{0.png}", *MODELS, "--report", "no/r.html"], "--report no/r.html; expected a file"),
        (["{0.png}", *MODELS, "--clip.wieght", "3"], "did you mean 'weight'?"),
    ],
)
def test_mistakes_get_one_line(capsys, folder, quick, arguments, message):
    given = [
        str(folder / item[1:-1]) if item.startswith("{") else item for item in map(str, arguments)
    ]
    code, stdout, stderr = run(capsys, *given, *quick, "--json")
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert message in json.loads(stdout)["error"]["message"]


def test_fields_are_listed(capsys):
    code, stdout, _ = run(capsys, "--fields")
    assert code == 0
    assert "method, type moves: " in stdout
    assert str(IMAGE_WEIGHT) in stdout


def test_without_a_method_one_line_says_what_was_chosen(capsys, folder, quick, monkeypatch):
    small = {"drafts": 4, "swaps": 1, "insertions": 1, "rewrites": 2, "crossings": 4}
    monkeypatch.setattr(auto, "Moves", lambda **given: Moves(**small | given))
    flags = [*quick[: quick.index("--steps")], "--forward-passes", "60", "--json"]
    code, stdout, stderr = run(capsys, folder, *MODELS, *flags)
    assert code == 0
    captions = json.loads(stdout)["captions"]
    (chosen,) = {item["chosen"] for item in captions}
    assert stderr == f"method: {chosen}\n"
    assert chosen.startswith("moves under a schedule, words by layers: ")
    # a limit that is given is the only one
    assert [item["stop"] for item in captions] == ["forward passes"] * 2
    assert all(60 <= item["spent"]["forward_passes"] < 1500 for item in captions)
