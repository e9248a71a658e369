"""Runs of ``optimize`` that are stopped, fail or go on: what is kept, and what is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fuse_index.objectives.features import _LabelLoss
from fuse_index.optimize import Result
from fuse_index.run import EventWriter
from tests.cli.running import run, without_times

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("use_cache")


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
    assert steps == [0, 1, 2, 3, 4]
    assert [line["event"] for line in lines if line["event"] != "step"] == ["start", "end"]
    code, _, stderr = run(capsys, file, "--checkpoint", state, "--seed", 9)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "is of a run with options.seed = 0; expected 9" in stderr


SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@SIGNALS
@pytest.mark.parametrize("as_json", [True, False])
def test_an_interrupt_gives_the_best_so_far(
    capsys, file, tmp_path, monkeypatch, as_json, number, code
):
    render = EventWriter.__call__

    def interrupt(self, run, point):
        render(self, run, point)
        if point.step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(EventWriter, "__call__", interrupt)
    out, events = tmp_path / "out.json", tmp_path / "events.jsonl"
    flags = ["--steps", 1000, "--out", out, "--events", events, *(["--json"] if as_json else [])]
    found, stdout, stderr = run(capsys, file, *flags)
    assert found == code
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


@SIGNALS
def test_an_interrupt_in_the_last_step_is_not_lost(capsys, file, monkeypatch, number, code):
    render = EventWriter.__call__

    def interrupt(self, run, point):
        render(self, run, point)
        if point.step == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(EventWriter, "__call__", interrupt)
    found, stdout, _ = run(capsys, file, "--steps", 3, "--events", os.devnull, "--json")
    assert found == code
    assert json.loads(stdout)["stop"] == "interrupted"


def test_two_signals_end_the_step_and_keep_the_best(capsys, file, tmp_path, monkeypatch):
    """As from a scheduler that is impatient; the second one ends the step that goes on."""
    render = EventWriter.__call__

    def interrupt(self, run, point):
        render(self, run, point)
        if point.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(EventWriter, "__call__", interrupt)
    events = ["--events", os.devnull, "--checkpoint", tmp_path / "state"]
    found, stdout, _ = run(capsys, file, "--steps", 9, *events, "--json")
    assert found == 143
    assert json.loads(stdout)["spent"]["steps"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "shell"),
    [
        (signal.SIGINT, 130, ""),
        (signal.SIGTERM, 143, ""),
        (signal.SIGTERM, 143, "trap '' INT; "),  # as for what a script starts in the background
    ],
)
def test_an_interrupt_of_a_process(file, tmp_path, number, code, shell):
    out, events = tmp_path / "out.json", tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "fuse_index.cli.main", "optimize", str(file)]
    command += ["--steps", "100000", "--out", str(out), "--events", str(events)]
    process = subprocess.Popen(
        ["sh", "-c", f'{shell}exec "$@"', "sh", *command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not events.exists() or events.read_text(encoding="utf-8").count("\n") < 4:
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
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


def test_a_damaged_checkpoint(capsys, file, tmp_path):
    state = tmp_path / "state"
    state.write_bytes(b"nothing")
    code, _, stderr = run(capsys, file, "--checkpoint", state)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "is damaged or no checkpoint" in stderr
    assert state.read_bytes() == b"nothing"
