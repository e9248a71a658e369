"""The verb ``optimize`` as a user types it: files, flags, methods, and what is printed."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from fuse_index.cli import main as cli
from fuse_index.demo import Split, draw, make_scene
from fuse_index.optimize import Result
from tests.cli.running import START, run, without_times

pytestmark = pytest.mark.usefixtures("use_cache")


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
    method, memory = stderr.splitlines()
    assert method == f"method: {found['chosen']}"
    assert re.fullmatch(
        r"memory, about: weights \d+ MB, states of units \d+ MB, "
        r"scoring 64 prompts at once \d+ MB, a gradient \d+ MB",
        memory,
    )
    assert found["chosen"].startswith("GCG over words by layers, the 24 best of 3 positions")
    assert found["configuration"]["method"]["type"] == "gcg"
    assert found["configuration"]["method"]["predictor"] == "layers"
    assert found["configuration"]["budget"] == {
        "steps": None,
        "seconds": None,
        "forward_passes": 60,
        "flops": None,
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
