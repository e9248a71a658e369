"""Runs that are killed, ended or out of room: what goes on, and what is kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from fuse_index.cli.main import main
from fuse_index.demo import Split, draw, make_scene
from fuse_index.run import EventWriter

SHORT = ["--method", "random", "--method.search_width", "4"]
LM = ["optimize", "--model", "lm=demo:lm", "--initial", "a red circle", *SHORT]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path / "cache"))


def test_a_picture_that_was_replaced_does_not_go_on(capsys):
    """The data of a run were uploaded again under the same name; it went on and mixed both.

    https://github.com/TensorAuto/OpenTau/issues/502
    """
    clip = [*LM, "--model", "clip=demo:clip", "--checkpoint", "state"]
    run = [*clip, "--objective", "{type: image, model: clip, images: picture.png}"]
    for number, steps, code in ((0, 1, 0), (0, 2, 0), (1, 3, 2)):
        draw(make_scene(Split.TEST, number)).save("picture.png")
        assert main([*run, "--steps", str(steps)]) == code
    assert "other contents of the image picture.png" in capsys.readouterr().err


def test_events_after_a_kill_stand_once(monkeypatch):
    """Killed between two checkpoints and gone on: the steps in between were told twice.

    https://github.com/gradio-app/trackio/issues/125
    """
    run = [*LM, "--objective", "fluency", "--checkpoint", "state", "--events", "events"]
    assert main([*run, "--steps", "2"]) == 0
    shutil.copy("state", "kept")
    assert main([*run, "--steps", "4"]) == 0
    shutil.copy("kept", "state")  # the kill came before the next checkpoint
    assert main([*run, "--steps", "5"]) == 0
    lines = [json.loads(line) for line in Path("events").read_text(encoding="utf-8").splitlines()]
    assert [line.get("step", line["event"]) for line in lines] == ["start", *range(6), "end"]


def test_a_scheduler_that_ends_a_job_gets_the_best_so_far(capsys, monkeypatch):
    """SIGTERM, as before the time of a job is over: what Ctrl-C keeps was lost.

    https://github.com/davidsd/sdpb/issues/201
    """
    write = EventWriter.__call__

    def end(self, run, point):
        write(self, run, point)
        if point.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(EventWriter, "__call__", end)
    run = [*LM, "--objective", "fluency", "--steps", "99", "--out", "out", "--events", "events"]
    assert main(run) == 143
    assert json.loads(Path("out").read_text(encoding="utf-8"))["spent"]["steps"] == 2
    assert "stopped by interrupted" in capsys.readouterr().out


def test_a_disk_that_is_full_at_the_end_keeps_the_result(capsys, monkeypatch):
    """The result of a long run had no room, and was nowhere.

    https://github.com/refresh-bio/KMC/issues/211
    """

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("fuse_index.common.files.write_atomically", full)
    assert main([*LM, "--objective", "fluency", "--steps", "1", "--out", "out"]) == 2
    out, err = capsys.readouterr()
    assert "its content is on standard output" in err
    assert json.loads(out[out.index("\n{\n") :])["spent"]["steps"] == 1


def test_what_is_no_regular_file_is_written_to(tmp_path):
    """``--out /dev/null`` as root: the device became a file. Here a FIFO, which stays one.

    https://github.com/bazelbuild/bazel/pull/31038
    """
    os.mkfifo("fifo")
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main([*LM, "--objective", "fluency", "--steps", "1", "--out", "fifo"]) == 0
        assert os.read(reader, 2) == b"{\n"
    finally:
        os.close(reader)
    assert Path("fifo").is_fifo()
