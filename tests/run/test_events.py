"""Events of runs that go on: every step stands once, whatever the file held."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuse_index.optimize.result import Point
from fuse_index.run import EventWriter

PROBLEM = SimpleNamespace(names=("loss",), decode=lambda ids: f"text {ids[0]}")
RUN: Any = SimpleNamespace(
    problem=PROBLEM, best=SimpleNamespace(ids=(0,)), configuration=lambda: {"of": "the run"}
)
RESULT: Any = SimpleNamespace(
    stop=SimpleNamespace(value="steps"),
    text="",
    full_texts={},
    items={},
    total=1.0,
    losses={},
    spent={},
)


def point(step: int) -> Point:
    return Point(step, step, 0.0, 1.0, (1.0,), 1.0, (step,), 1, 1)


def session(path: Path, steps: range, *, append: bool, end: bool = True, **about: Any) -> None:
    writer = EventWriter(path, append=append)
    if about:
        writer.about(**about)
    for step in steps:
        writer(RUN, point(step))
    if end:
        writer.end(RESULT)
    writer.close()


def events(path: Path, **about: Any) -> list[Any]:
    """Numbers of steps, and names of other events."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    mine = [line for line in lines if all(line.get(k) == v for k, v in about.items())]
    return [line.get("step", line["event"]) for line in mine]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("torn", ["", '{"event": "st', "{"])
def test_a_run_that_goes_on_has_every_step_once(path, at, end, torn):
    session(path, range(6), append=False, end=end)
    with path.open("a", encoding="utf-8") as file:
        file.write(torn)
    session(path, range(at, 9), append=True)
    assert events(path) == ["start", *range(min(at, 6)), *range(at, 9), "end"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_run_that_goes_on_twice(path):
    session(path, range(5), append=False, end=False)
    session(path, range(2, 7), append=True, end=False)
    session(path, range(4, 8), append=True)
    assert events(path) == ["start", *range(8), "end"]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(path):
    session(path, range(5), append=False, end=False)
    session(path, range(3), append=True)
    assert events(path) == ["start", 0, 1, 2, "end"]


@pytest.mark.parametrize("text", [None, "", "a note of somebody\n", "[1, 2]\n"])
def test_a_file_without_the_run_gets_its_start(path, text):
    if text is not None:
        path.write_text(text, encoding="utf-8")
    session(path, range(3, 5), append=True)
    kept = text or ""
    assert path.read_text(encoding="utf-8").startswith(kept)
    path.write_text(path.read_text(encoding="utf-8")[len(kept) :], encoding="utf-8")
    assert events(path) == ["start", 3, 4, "end"]


def test_other_images_keep_their_events(path):
    session(path, range(3), append=False, image="a")
    session(path, range(4), append=True, end=False, image="b")
    session(path, range(2, 3), append=True, image="a")
    session(path, range(1, 6), append=True, image="b")
    assert events(path, image="a") == ["start", 0, 1, 2, "end"]
    assert events(path, image="b") == ["start", 0, 1, 2, 3, 4, 5, "end"]


def test_without_going_on_the_file_is_replaced(path):
    session(path, range(5), append=False)
    session(path, range(2), append=False)
    assert events(path) == ["start", 0, 1, "end"]


def test_one_writer_for_several_runs(path):
    writer = EventWriter(path)
    for _ in range(2):
        for step in range(2):
            writer(RUN, point(step))
    writer.close()
    assert events(path) == ["start", 0, 1, "start", 0, 1]


def test_a_link_is_followed(path, tmp_path):
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real" / "events")
    session(path, range(4), append=False)
    session(path, range(2, 5), append=True)
    assert path.is_symlink()
    assert events(path) == ["start", *range(5), "end"]


def test_a_fifo_is_only_written_to(path):
    os.mkfifo(path)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(path.read_text(encoding="utf-8")))
    reader.start()
    session(path, range(2, 4), append=True)
    reader.join(60)
    assert [json.loads(line)["event"] for line in found[0].splitlines()] == [
        *("start", "step", "step", "end")
    ]
    assert path.is_fifo()
