"""The verb ``optimize`` as a user types it: files, flags, resumption, interrupts, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from fuse_index.cli import main as cli
from fuse_index.demo import Split, draw, make_scene, write_vocabulary
from fuse_index.objectives.features import _LabelLoss
from fuse_index.optimize import Result
from fuse_index.run import EventWriter

ROOT = Path(__file__).parents[2]
START = "the picture contains a small circle on the left"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache that all tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache(cache, models_once, monkeypatch):
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(cache))


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("words") / "words.txt")


@pytest.fixture
def file(tmp_path, words) -> Path:
    """A run file: fluent and positive."""
    run = {
        "models": {"lm": "demo:lm", "sentiment": "demo:sentiment"},
        "objectives": [
            {"type": "fluency", "model": "lm"},
            {"type": "label", "model": "sentiment", "label": "positive"},
        ],
        "initial": START,
        "method": {"type": "gcg", "search_width": 16, "top_k": 32},
        "budget": {"steps": 3},
        "adapters": {"words": str(words)},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")
    return path


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main(["optimize", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def without_times(value):
    """A JSON value without what a clock says."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.mark.smoke
def test_two_runs_of_one_file_are_identical(capsys, file, tmp_path):
    outs = [tmp_path / "one.json", tmp_path / "two.json"]
    for out in outs:
        code, stdout, stderr = run(capsys, file, "--json", "--out", out)
        assert (code, stderr) == (0, "")
        assert json.loads(stdout) == json.loads(out.read_text(encoding="utf-8"))
    one, two = (without_times(json.loads(out.read_text(encoding="utf-8"))) for out in outs)
    assert one == two
    assert set(one["losses"]) == {"fluency", "label"}
    assert one["spent"]["steps"] == 3
    assert one["total"] == pytest.approx(sum(one["losses"].values()))
    assert one["total"] < one["trajectory"][0]["best"]
    code, stdout, _ = run(capsys, file, "--json", "--seed", 1)
    assert json.loads(stdout)["trajectory"][-1]["ids"] != one["trajectory"][-1]["ids"]


def test_what_people_see(capsys, file):
    code, stdout, stderr = run(capsys, file)
    assert (code, stderr) == (0, "")
    first, *rest = stdout.splitlines()
    assert len(first.split()) >= 3
    assert any("stopped by steps: 3 steps" in line for line in rest)
    for name in ("fluency", "label", "total"):
        assert any(line.startswith(name) for line in rest)


def test_flags_go_over_the_file(capsys, file):
    flags = ["--steps", 1, "--method.search-width", 8, "--objectives.label.weight=3"]
    flags += ["--search", "beam", "--search.width", 2, "--initial", "a small star", "--seed", 5]
    code, stdout, _ = run(capsys, file, *flags, "--set", "options.pareto_size=3", "--json")
    assert code == 0
    found = json.loads(stdout)["configuration"]
    assert found["budget"]["steps"] == 1
    assert found["method"]["search_width"] == 8
    assert found["search"] == {"type": "beam", "width": 2, "keep_current": True}
    assert found["problem"]["terms"][1]["objective"]["weight"] == 3.0
    assert found["options"]["pareto_size"] == 3
    assert found["options"]["seed"] == 5
    assert len(found["initial"][0]) == 3


def test_a_run_from_flags_alone(capsys):
    flags = ["--model", "lm=demo:lm", "--objective", "{type: fluency, model: lm}"]
    flags += ["--initial.length", 4, "--method", "random", "--method.search_width", 8]
    code, stdout, _ = run(capsys, *flags, "--steps", 2, "--json")
    assert code == 0
    found = json.loads(stdout)
    assert len(found["ids"]) == 4
    assert found["configuration"]["method"]["type"] == "random"


@pytest.mark.parametrize("unit", ["token", "word"])
@pytest.mark.parametrize("method", ["gcg", "autodan", "pez", "random"])
def test_every_method_from_a_file(capsys, file, method, unit):
    flags = ["--method", method, "--method.unit", unit, "--steps", 1, "--json"]
    code, stdout, stderr = run(capsys, file, *flags)
    assert (code, stderr) == (0, "")
    found = json.loads(stdout)
    assert (found["configuration"]["method"]["type"], found["chosen"]) == (method, "")
    assert found["configuration"]["method"]["unit"] == unit


def test_moves_from_a_file(capsys, file):
    flags = ["--method", "moves", "--method.drafts", 4, "--method.swaps", 1, "--steps", 2, "--json"]
    code, stdout, stderr = run(capsys, file, *flags)
    assert (code, stderr) == (0, "")
    found = json.loads(stdout)
    assert found["configuration"]["method"]["drafts"] == 4
    assert found["spent"]["predicted"] >= 4


def test_without_a_method_one_line_says_what_was_chosen(capsys, file):
    value = yaml.safe_load(file.read_text(encoding="utf-8"))
    del value["method"], value["budget"]
    file.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    flags = ["--forward-passes", 60, "--json"]
    code, stdout, stderr = run(capsys, file, *flags)
    found = json.loads(stdout)
    assert code == 0
    assert stderr == f"method: {found['chosen']}\n"
    assert found["chosen"].startswith("GCG over words by layers, the 24 best of 3 positions")
    assert found["configuration"]["method"]["type"] == "gcg"
    assert found["configuration"]["method"]["predictor"] == "layers"
    assert found["configuration"]["budget"] == {
        "steps": None,
        "seconds": None,
        "forward_passes": 60,
        "target_loss": None,
    }
    assert found["stop"] == "forward passes"
    assert cli.main(["--quiet", "optimize", str(file), *map(str, flags)]) == 0
    assert capsys.readouterr().err == ""


def test_forward_passes_alone_are_the_only_limit(capsys, file, monkeypatch):
    """The 100 steps of a run without any limit do not bound it."""
    value = yaml.safe_load(file.read_text(encoding="utf-8"))
    del value["budget"]
    file.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    flags = ["--method", "pez", "--forward-passes", 20000, "--json"]
    flags += ["--target-loss", 1e9]  # met at once: what counts is the budget of the run
    code, stdout, _ = run(capsys, file, *flags)
    assert code == 0
    budget = json.loads(stdout)["configuration"]["budget"]
    assert (budget["steps"], budget["forward_passes"]) == (None, 20000)


def test_probe_sampling_from_a_file(capsys, file):
    draft = "{objectives: [{type: fluency, model: lm}], reduction: 2}"
    code, stdout, _ = run(capsys, file, "--set", f"probe={draft}", "--steps", 2, "--json")
    assert code == 0
    assert json.loads(stdout)["spent"]["draft"] > 0


def test_a_stopped_run_goes_on(capsys, file, tmp_path):
    state, events = tmp_path / "state", tmp_path / "events.jsonl"
    straight = run(capsys, file, "--steps", 4, "--json")[1]
    run(capsys, file, "--steps", 2, "--checkpoint", state, "--events", events)
    code, resumed, _ = run(
        capsys, file, "--steps", 4, "--checkpoint", state, "--events", events, "--json"
    )
    assert code == 0
    one, two = (without_times(json.loads(text)) for text in (straight, resumed))
    assert one == two
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    steps = [line["step"] for line in lines if line["event"] == "step"]
    assert steps == [0, 1, 2, 2, 3, 4]  # a resumed run says first where it stands
    code, _, stderr = run(capsys, file, "--checkpoint", state, "--seed", 9)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "is of a run with options.seed = 0; expected 9" in stderr


@pytest.mark.parametrize("as_json", [True, False])
def test_an_interrupt_gives_the_best_so_far(capsys, file, tmp_path, monkeypatch, as_json):
    render = EventWriter.__call__

    def interrupt(self, run, point):
        render(self, run, point)
        if point.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(EventWriter, "__call__", interrupt)
    out, events = tmp_path / "out.json", tmp_path / "events.jsonl"
    flags = ["--steps", 1000, "--out", out, "--events", events, *(["--json"] if as_json else [])]
    code, stdout, stderr = run(capsys, file, *flags)
    assert code == 130
    assert stderr == "fuse-index: error: interrupted: the best so far is given\n"
    result = Result.load(out)
    assert result.stop.value == "interrupted"
    assert result.spent["steps"] == 2
    if as_json:
        assert json.loads(stdout) == result.to_json()
    else:
        assert stdout.startswith(result.text.strip() + "\n")
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    assert (lines[-1]["event"], lines[-1]["stop"]) == ("end", "interrupted")


def test_an_interrupt_in_the_last_step_is_not_lost(capsys, file, monkeypatch):
    render = EventWriter.__call__

    def interrupt(self, run, point):
        render(self, run, point)
        if point.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(EventWriter, "__call__", interrupt)
    code, stdout, _ = run(capsys, file, "--steps", 3, "--events", os.devnull, "--json")
    assert code == 130
    assert json.loads(stdout)["stop"] == "interrupted"


@pytest.mark.slow
def test_an_interrupt_of_a_process(file, tmp_path):
    out, events = tmp_path / "out.json", tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "fuse_index.cli.main", "optimize", str(file)]
    command += ["--steps", "100000", "--out", str(out), "--events", str(events)]
    process = subprocess.Popen(
        [*command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not events.exists() or events.read_text(encoding="utf-8").count("\n") < 4:
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip() == "fuse-index: error: interrupted: the best so far is given"
    assert json.loads(stdout) == Result.load(out).to_json()
    assert Result.load(out).stop.value == "interrupted"


@pytest.fixture
def failing(monkeypatch):
    """A classifier that gives NaN from some call on."""

    def after(calls: int) -> None:
        real, count = _LabelLoss.compute, iter(range(1 << 30))

        def compute(self, embeds, batch, labels):
            losses = real(self, embeds, batch, labels)
            return losses if next(count) < calls else losses * torch.nan

        monkeypatch.setattr(_LabelLoss, "compute", compute)

    return after


def test_nan_stops_the_run_and_keeps_the_best_so_far(capsys, file, tmp_path, failing):
    failing(4)
    out, events = tmp_path / "out.json", tmp_path / "events.jsonl"
    code, stdout, stderr = run(capsys, file, "--out", out, "--events", events, "--json")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "fuse-index: error: label(" in stderr
    assert "is nan for the prompt" in stderr
    assert Result.load(out).stop.value == "failed"
    said = json.loads(stdout)
    assert said["error"]["type"] == "LossError"
    assert said["result"]["text"] == Result.load(out).text
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines][-2:] == ["error", "end"]


def test_nan_shows_people_the_best_so_far(capsys, file, failing):
    failing(4)
    code, stdout, stderr = run(capsys, file)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "stopped by failed" in stdout


def test_a_full_disk_keeps_the_best_so_far(capsys, file, tmp_path, monkeypatch):
    from fuse_index.optimize.checkpoint import Checkpoint

    def full(self, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Checkpoint, "save", full)
    out, state = tmp_path / "out.json", tmp_path / "state"
    flags = ["--checkpoint", state, "--checkpoint-every", 2, "--out", out]
    code, _, stderr = run(capsys, file, *flags)
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"{state} cannot be written (No space left on device)" in stderr
    result = Result.load(out)
    assert (result.stop.value, result.spent["steps"]) == ("failed", 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objectives.label.label", "merry"], "no label 'merry'; expected one of 'negative', 'n"),
        (["--objectives.fluency.prefix", "a red star " * 60], "shorten the prefix or the suffix"),
        (["--tokens.deny_pattern", "."], "the filters leave none of 560 tokens"),
        (["--tokens.allow_pattern", "("], "allow_pattern '('"),
        (["--method.search_width", "many"], "method (gcg).search_width: 'many'; expected a whole"),
        (["--method.serch_width", "3"], "did you mean 'search_width'?"),
        (["--bugdet.steps", "3"], "section 'bugdet' is unknown"),
        (["--models.lm.model", "demo:gpt"], "model 'demo:gpt'; expected one of demo:lm"),
        (["--model", "lm"], "--model lm; expected NAME=MODEL"),
        (["--set", "budget"], "--set budget; expected FIELD=VALUE"),
        (["--steps", "0"], "budget: steps=0; expected at least 1"),
        (["--initial", " "], "initial: an empty text"),
        (["--source", "sentimen"], "did you mean 'sentiment'?"),
        (["--out", "nowhere/out.json"], "--out nowhere/out.json; expected a file in a folder"),
        (["--events", "nowhere/e"], "--events nowhere/e; expected a file in a folder"),
        (["--checkpoint", "nowhere/s"], "--checkpoint nowhere/s; expected a file in a folder"),
        (["--checkpoint-every", "0"], "checkpoint_every=0; expected at least 1"),
        (["--models.sentiment.adapter", "nowhere"], "adapter nowhere does not exist"),
        (["--adapters.words", "nowhere.txt"], "corpus nowhere.txt does not exist"),
    ],
)
def test_mistakes_get_one_line(capsys, file, flags, message):
    code, stdout, stderr = run(capsys, file, *flags, "--json")
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert message in json.loads(stdout)["error"]["message"]


def test_images_that_are_none(capsys, file, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image", encoding="utf-8")
    clip = ["--model", "clip=demo:clip", "--objective"]
    for image, message in ((text, "cannot be read as an image"), ("no.png", "does not exist")):
        objective = f"{{type: image, model: clip, images: {image}}}"
        code, _, stderr = run(capsys, file, *clip, objective)
        assert (code, stderr.count("\n")) == (2, 1)
        assert message in stderr


def test_an_adapter_of_other_models(capsys, file, cache):
    run(capsys, file, "--steps", 1)
    (bundle, *_) = [path for path in (cache / "adapters").iterdir() if path.is_dir()]
    flags = ["--models.sentiment.model", "demo:judge", "--models.sentiment.adapter", bundle]
    code, _, stderr = run(capsys, file, *flags)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "the target model is" in stderr
    assert "which the bundle was built for" in stderr


def test_the_whole_text_is_told(capsys, file):
    options = ("--objectives.fluency.prefix", "look:", "--method", "random", "--steps", 1)
    code, stdout, _ = run(capsys, file, *options)
    assert code == 0
    told = next(line for line in stdout.splitlines() if line.startswith("fluency reads "))
    text = json.loads(told.removeprefix("fluency reads "))
    assert text.startswith("look: ")
    assert text.removeprefix("look: ") == stdout.splitlines()[0]
    assert "label reads" not in stdout, "the prompt itself"


def test_a_conversation_without_a_template_is_one_line(capsys, file):
    talk = "[{role: user, content: 'so {prompt}'}]"
    code, stdout, stderr = run(capsys, file, "--objectives.fluency.messages", talk)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "messages, but its tokenizer has no chat template" in stderr


def test_a_prompt_that_cannot_survive(capsys, file, monkeypatch):
    from fuse_index.predict.target import SourceWords

    monkeypatch.setattr(
        SourceWords, "survives", lambda _self, rows: torch.zeros(len(rows)).bool().numpy()
    )
    code, stdout, stderr = run(capsys, file, "--steps", 20)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "survives re-tokenization; " in stderr
    assert "check_retokenization off" in stderr
    assert START in stdout


def test_a_damaged_checkpoint(capsys, file, tmp_path):
    state = tmp_path / "state"
    state.write_bytes(b"nothing")
    code, _, stderr = run(capsys, file, "--checkpoint", state)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "is damaged or no checkpoint" in stderr
    assert state.read_bytes() == b"nothing"


def test_fields_are_listed(capsys):
    code, stdout, _ = run(capsys, "--fields")
    assert code == 0
    for text in ("search_width", "models.NAME", "objectives[N], type label", "forward_passes"):
        assert text in stdout
    code, stdout, _ = run(capsys, "--fields", "--json")
    assert json.loads(stdout)["budget"]["steps"]["default"] == "none"


def test_fields_become_settings():
    given = ["a", "--budget.steps", "3", "--lm.dtype=x", "--json", "--", "--a.b", "c"]
    assert cli.settings_of_fields(given) == [
        "a",
        *("--set", "budget.steps=3"),
        *("--set", "lm.dtype=x"),
        *("--json", "--", "--a.b", "c"),
    ]


def test_a_folder_of_images_for_one_prompt(capsys, file, tmp_path):
    for index in range(2):
        draw(make_scene(Split.TEST, index)).save(tmp_path / f"{index}.png")
    objective = f"{{type: image, model: clip, images: {tmp_path}}}"
    flags = ["--model", "clip=demo:clip", "--objective", objective, "--steps", 1, "--json"]
    code, stdout, _ = run(capsys, file, *flags)
    assert code == 0
    term = json.loads(stdout)["configuration"]["problem"]["terms"][2]
    assert term["objective"]["images"] == [str(tmp_path / "0.png"), str(tmp_path / "1.png")]


def test_items_of_a_file_and_what_models_do_with_the_prompt(tmp_path, capsys):
    items = tmp_path / "pairs.jsonl"
    lines = [{"prefix": "the ", "target": " circle"}, {"target": " red"}, {"target": " on the"}]
    items.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    out, events = tmp_path / "result.json", tmp_path / "events.jsonl"
    objective = f"{{type: continuation, items: {items}, items_per_step: 2, combine: worst}}"
    given = ["optimize", "--model", "lm=demo:lm", "--objective", objective, "--initial", START]
    given += ["--method", "random", "--method.search_width", "8", "--steps", "2"]
    assert cli.main([*given, "--check", "4", "--out", str(out), "--events", str(events)]) == 0
    shown = capsys.readouterr().out
    result = Result.load(out)
    (losses,) = result.items.values()
    assert result.losses["continuation"] == max(losses)
    for index, (loss, check) in enumerate(zip(losses, result.checks, strict=True)):
        assert f"continuation[{index}]" in shown
        assert f"{loss:.4f}" in shown
        same = sum(wanted == found for wanted, found in check.tokens)
        assert f"({same} of {len(check.tokens)} tokens)" in shown
    assert f"{sum(check.met for check in result.checks)} of 3 met" in shown
    steps = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    drawn = [step["items"]["continuation"] for step in steps if step["event"] == "step"]
    assert [len(own) for own in drawn] == [3, 2, 2]
    assert cli.main([*given, "--check", "4", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [check["met"] for check in printed["checks"]] == [c.met for c in result.checks]
    assert printed["items"]["continuation"] == list(losses)


def test_a_broken_line_of_items_is_named(tmp_path, capsys):
    items = tmp_path / "pairs.jsonl"
    items.write_text('{"target": " circle"}\n{"target": \n', encoding="utf-8")
    objective = f"{{type: continuation, items: {items}}}"
    assert cli.main(["optimize", "--model", "lm=demo:lm", "--objective", objective]) == 2
    assert f"{items}, line 2: Expecting value at column 12" in capsys.readouterr().err
