"""Shared console helpers: progress only for long work, logs to stderr, one clean line."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from enum import Enum

import pytest
from rich.console import Console

from fuse_index.cli import _console


@pytest.fixture
def terminal() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=100, color_system=None), out


def wait_for(text: str, out: io.StringIO) -> None:
    """Let the bar draw itself."""
    end = time.monotonic() + 5
    while text not in out.getvalue() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def restore_logging():
    logger = logging.getLogger("fuse_index")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


class Stage(str, Enum):
    FIRST = "counting words"


def test_short_work_shows_no_bar(terminal):
    console, out = terminal
    with _console.ProgressBar(after=10, console=console) as bar:
        bar("working", 1, 2)
    assert out.getvalue() == ""


def test_long_work_shows_stage_and_percentage(terminal):
    console, out = terminal
    with _console.ProgressBar(after=0.05, console=console) as bar:
        bar(Stage.FIRST, 1, 4)
        wait_for("25%", out)
        step = bar.stage("fitting [adapters]")
        step(0, None)
        step(3, 4)
        wait_for("75%", out)
    shown = out.getvalue()
    assert "counting words" in shown
    assert "25%" in shown
    assert "fitting [adapters]" in shown
    assert "75%" in shown
    assert "Stage.FIRST" not in shown


def test_unknown_total_then_known(terminal):
    console, _ = terminal
    with _console.ProgressBar(after=0.0, console=console) as bar:
        time.sleep(0.2)
        for done, total in ((5, None), (6, None), (7, 10), (8, None)):
            bar("reading", done, total)
            task = bar._progress.tasks[-1]
            assert (task.description, task.completed, task.total) == ("reading", done, total)
            assert len(bar._progress.tasks) == 1


def test_nothing_is_shown_without_a_terminal(capsys):
    with _console.ProgressBar(after=0.0) as bar:
        bar("working", 1, 2)
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("switches", "levels"),
    [
        ({}, ["warning", "error"]),
        ({"verbose": True}, ["info", "warning", "error"]),
        ({"debug": True}, ["debug", "info", "warning", "error"]),
        ({"quiet": True}, ["error"]),
    ],
)
def test_logs_go_to_stderr_at_the_asked_level(capsys, switches, levels):
    _console.set_up(**switches)
    logger = logging.getLogger("fuse_index.somewhere")
    for level in ("debug", "info", "warning", "error"):
        getattr(logger, level)("message %d", 7)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"fuse-index: {level}: message 7" for level in levels]


def test_set_up_twice_logs_once(capsys):
    _console.set_up()
    _console.set_up()
    logging.getLogger("fuse_index").warning("once")
    assert capsys.readouterr().err == "fuse-index: warning: once\n"


def test_notes_are_dropped_when_quiet(capsys):
    _console.set_up()
    _console.note("two\nlines [bold]")
    _console.set_up(quiet=True)
    _console.note("nothing")
    assert capsys.readouterr().err == "two lines [bold]\n"


def test_json_is_ascii_without_nan(capsys):
    _console.print_json({"b": float("nan"), "a": ["é", Stage.FIRST]})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"a": ["é", "counting words"], "b": None}


def test_no_colour_when_not_a_terminal(capsys):
    _console.error("what happened")
    assert capsys.readouterr().err == "fuse-index: error: what happened\n"


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, force_terminal=True).print("x", style="red")
    assert "\x1b[31m" not in out.getvalue()
    assert _console.stderr_console().no_color


def test_tables_fold_rather_than_cut(capsys):
    _console.print_table(["name", "value"], [["a", "x" * 200], ["b[1]", "\x07"]])
    out = capsys.readouterr().out
    assert out.replace(r"\x07", "").count("x") == 200
    assert "b[1]" in out
    assert r"\x07" in out
    assert "\x07" not in out


def test_progress_shows_amount_rate_and_what_is_left(terminal):
    class Stage(str, Enum):
        READ = "reading"

        @property
        def unit(self) -> str:
            return "words"

    console, stream = terminal
    with _console.ProgressBar(after=0.0, console=console) as bar:
        time.sleep(0.2)
        for done in range(0, 60_000, 5_000):
            bar(Stage.READ, done, 100_000)
            time.sleep(0.05)
    shown = stream.getvalue()
    assert re.search(r"55,000 words, [\d,]+ words/s", shown)
    assert re.search(r"0:00:0\d 0:00:0\d", shown)  # elapsed and left


@pytest.mark.parametrize(
    ("done", "speed", "unit", "text"),
    [
        (1_250_000, 48_000.4, "words", "1,250,000 words, 48,000 words/s"),
        (2_500_000, 31e6, "bytes", "2 MB, 31 MB/s"),
        (7, None, "words", "7 words"),
        (0, 1.0, "words", ""),
        (7, 1.0, "", ""),
    ],
)
def test_amounts(done, speed, unit, text):
    assert _console.amount_and_rate(done, speed, unit) == text
